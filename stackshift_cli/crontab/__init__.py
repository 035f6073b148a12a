"""What a crontab says, read as cron reads it."""
