"""What `doctor` and `jobs check` look at."""
