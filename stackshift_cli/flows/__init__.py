"""What takes more than one request: starts, batches, watching a run, a held lock."""
