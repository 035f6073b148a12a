"""How records change the state, a file a subject. `fold.fold` is the only way in."""
