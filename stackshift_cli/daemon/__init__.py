"""The command line's side of the daemon: connection, session, start, feed, log."""
