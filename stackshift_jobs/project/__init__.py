"""A project: which one is meant, what `stackshift.toml` says, where its daemon is."""
