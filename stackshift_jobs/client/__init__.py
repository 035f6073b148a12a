"""The clients for applications, blocking and awaited: runs, state, events, locks."""
