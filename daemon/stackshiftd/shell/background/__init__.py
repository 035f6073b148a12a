"""What happens without a request: timers, schedules, compaction, hooks."""
