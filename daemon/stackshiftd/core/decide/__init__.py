"""What commands lead to, a file a subject. `decide.decide` is the only way in."""
