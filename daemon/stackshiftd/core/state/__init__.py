"""What the fold of the journal leaves in memory: runs, entries, locks, events, queues."""
