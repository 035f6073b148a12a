"""What may be typed: the table of commands, the two parsers that read it, help."""
