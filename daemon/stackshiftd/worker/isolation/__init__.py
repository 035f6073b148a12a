"""What keeps a run from the process that others share, and what is put back after it."""
