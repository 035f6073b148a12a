"""`state lock`: a lock that is held while a program runs."""
