"""The index of finished runs: a cache that can be deleted and is rebuilt from the journal."""
