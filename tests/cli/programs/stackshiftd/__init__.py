"""Stands in for the daemon's package in tests of the command line: it is started as a program."""
