"""Worker processes and what they are given: the pool and the dispatcher."""
