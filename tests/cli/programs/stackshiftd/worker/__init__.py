"""Stands in for the worker's package."""
