"""The table of commands, the two parsers made from it, completion and help."""
