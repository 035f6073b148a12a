"""Work that no request asks for: timers, schedules, compaction, hooks."""
