"""What takes more than one step: starts, batches, watching a run, holding a lock."""
