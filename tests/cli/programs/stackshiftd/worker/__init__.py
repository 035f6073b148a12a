"""Stands in for the worker."""
