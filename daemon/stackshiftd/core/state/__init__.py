"""What the fold of the journal keeps in memory: runs, entries, locks, events, queues."""
