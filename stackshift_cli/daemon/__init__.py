"""The daemon as the command line meets it: its connection, its start, its feeds, its log."""
