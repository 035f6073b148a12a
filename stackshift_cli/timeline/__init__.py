"""A run's timeline as values: rows, intervals, an axis. Pure; `render` draws it."""
