"""Keeps one worker on another host: the far end of a pipe from the daemon."""
