"""Printing: messages, escaping, confirmation, the standard streams and the terminal."""
