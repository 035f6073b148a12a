"""`start --batch`: many starts from one file."""
