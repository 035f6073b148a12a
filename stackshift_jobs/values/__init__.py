"""Values and what they may hold: JSON, durations, names, templates, types."""
