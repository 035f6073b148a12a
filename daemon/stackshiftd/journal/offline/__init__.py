"""The tools of `stackshift journal`, which work on the files, with or without a daemon running."""
