"""The params of a request as they are sent, held to what the daemon takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from stackshift_jobs.errors import PayloadRefused
from stackshift_jobs.project.locate import Project
from stackshift_jobs.wire.jsonrpc import encode_params

LINE_SLACK: Final = (64 << 10) - 256
"""Bytes by which the params may exceed `[limits] payload`: the daemon takes lines that exceed it by
64 KiB, and the rest of the line needs some."""


def encode(project: Project, params: Mapping[str, Any]) -> bytes:
    """`params` as they are sent. Raises `PayloadRefused`, also for a line too long for the daemon:
    that would end the connection and, with it, the requests of other threads."""
    body = encode_params(params)
    if len(body) > LINE_SLACK:
        from stackshift_jobs.project.config import load_config

        limit = load_config(project.root).limits.payload_bytes
        if len(body) > limit + LINE_SLACK:
            raise PayloadRefused(
                f"{len(body)} bytes of JSON; the limit is {limit}",
                hint="store it elsewhere and pass its location, or raise [limits] payload",
                path="$",
            )
    return body
