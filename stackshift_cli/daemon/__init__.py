"""The daemon as the command line meets it: connection, start, feed, log."""
