"""Encoding the params of a request, and checking them against the daemon's size limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stackshift_jobs.project.locate import FarProject, Project
from stackshift_jobs.values.secrets import current_secrets
from stackshift_jobs.wire.jsonrpc import encode_params

LINE_SLACK: Final = (64 << 10) - 256
"""A line may be 64 KiB longer than `[limits] payload`; this is what remains of that for the
params."""


def encode(project: Project, params: Mapping[str, Any]) -> bytes:
    """`params` as JSON. Raises `PayloadRefused` for what JSON cannot represent, for the text of a
    secret of the run that asks, and for a line that the daemon would not accept: that would end the
    connection, and with it the requests that other threads have under way.

    The limit of a project on another machine is not known here: what is too long, its daemon
    refuses."""
    body = encode_params(params)
    current_secrets.get().check(body)
    if len(body) > LINE_SLACK and not isinstance(project, FarProject):
        from stackshift_jobs.project.config import load_config

        limit = load_config(project.root).limits.payload_bytes
        if len(body) > limit + LINE_SLACK:
            from stackshift_jobs.values.strict_json import too_large

            raise too_large("the request", len(body), limit)
    return body
