"""A project: which one a program means, what its `stackshift.toml` says, where its daemon is."""
