"""The terminal as a program has it that redraws: keys, and lines that change."""
