"""The index of finished runs: derived from the journal, a cache. Delete it, it is rebuilt."""
