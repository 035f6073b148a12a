"""Projects whose daemons and workers are killed."""

from __future__ import annotations

from helpers.project_factory import make_project as make_project
