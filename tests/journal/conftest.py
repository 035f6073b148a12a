"""For all tests of journals."""

from __future__ import annotations

from helpers.postgres_server import database

__all__ = ["database"]
