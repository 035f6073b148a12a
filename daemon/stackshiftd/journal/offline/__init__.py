"""The tools of `stackshift journal`, which work on the files beside or without a daemon."""
