"""The version of the distribution and of the protocol that client and daemon speak."""

__version__ = "0.1.0"

PROTOCOL = 1
"""Increased when a request or reply changes its meaning; both ends must agree (else exit 3)."""
