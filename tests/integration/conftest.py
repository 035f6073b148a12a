"""Projects with real daemons."""

from __future__ import annotations

from helpers.postgres_server import database as database
from helpers.project_factory import make_project as make_project
