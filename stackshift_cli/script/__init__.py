"""Calls of the script of a shell job, which the worker that runs the script carries out."""
