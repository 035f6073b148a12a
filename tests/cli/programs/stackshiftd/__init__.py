"""Stands in for the daemon's package in tests of the command line, which starts it as a program."""
