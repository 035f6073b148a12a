"""The pure core: records, state, decisions. No clock, file, socket or randomness is used here."""
