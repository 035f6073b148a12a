"""The timeline of a run as values: rows, intervals, an axis. Pure; `render` draws it."""
