"""A journal whose truth is a log that several machines reach; the files here are a copy."""
