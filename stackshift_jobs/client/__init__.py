"""The clients for applications, blocking and awaited: runs, queues, state, events, locks."""
