"""The built-in job that delivers messages about alerts.

Its payload says what happened, and to which `[notify.NAME]` it goes; where that is, and the secret
that it may need, is read from `stackshift.toml` when it is sent, and recorded nowhere. So what is
corrected in the file holds from the next try on.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from stackshift_jobs.errors import NonRetryable
from stackshift_jobs.handler.command import run_command
from stackshift_jobs.handler.context import JobContext
from stackshift_jobs.programs.program import Program
from stackshift_jobs.registry import Job
from stackshift_jobs.values.destinations import problem_of
from stackshift_jobs.values.names import NOTIFY_JOB, NOTIFY_QUEUE
from stackshift_jobs.values.secrets import Reference, Secret
from stackshiftd.worker.notices import message
from stackshiftd.worker.notices.message import Notice, Place
from stackshiftd.worker.scripts.folder import Home
from stackshiftd.worker.secrets import SecretTerms, resolved

if TYPE_CHECKING:
    from stackshift_jobs.project.config import Config

STEP: Final = "deliver"
PICTURE_MS: Final = 15_000
"""How long the picture of a run may take; without it the message goes out all the same."""
WIDTH: Final = "78"
MOST_PICTURE: Final = 40
"""Lines."""


def notify(ctx: JobContext[Notice]) -> dict[str, str]:
    """Deliver one message, once it is recorded that it was never again."""
    return ctx.step.run(STEP, _deliver, ctx.payload, ctx.run_id)


def _deliver(notice: Notice, key: str) -> dict[str, str]:
    # Here, because every worker imports this module, and few deliver anything.
    from stackshift_jobs.project.config import load_config
    from stackshiftd.worker.notices.delivery import Message, deliver

    config = load_config(Path.cwd())
    terms = config.notify.get(notice.notify)
    if terms is None:
        raise NonRetryable(
            f"stackshift.toml has no [notify.{notice.notify}]",
            hint="add it, then: stackshift dead retry; or: stackshift dead discard",
        )
    to = _revealed(terms.to, config)
    if to and problem_of(to):
        raise NonRetryable(f"what [notify.{notice.notify}] to names is not valid: {problem_of(to)}")
    place = Place(config.project.name, str(config.root.resolve()), socket.gethostname())
    picture = _picture(notice.run) if notice.run and notice.alert != "recovered" else ""
    fields = {
        "alert": notice.alert,
        "job": notice.job or None,
        "queue": notice.queue or None,
        "run": notice.run,
        "count": notice.count,
        "error": notice.error,
        "at": notice.at,
        "detail": notice.detail,
        "project": place.project,
        "root": place.root,
        "host": place.host,
        "picture": picture or None,
    }
    written = Message(
        key, message.subject(notice, place), message.text(notice, place, picture), fields
    )
    return {"by": deliver(written, terms, to, _revealed(terms.token, config) or None)}


def _revealed(value: str | Reference | None, config: Config) -> str:
    """The text of a setting, which output must not show from here on. Raises
    `SecretUnavailable`."""
    if value is None:
        return ""
    if isinstance(value, str):
        # A URL of a channel is a secret too: whoever has it can write there.
        return value if value.startswith("mailto:") else Secret(value).reveal()
    terms = SecretTerms(str(config.root), Home.data_dir, config.secrets.env, config.secrets.files)
    return resolved(value, terms).reveal()


def _picture(run: str) -> str:
    """The timeline of a run as text, as the command line draws it; empty if it cannot."""
    command = ("runs", "show", run, "--picture", "--color", "never")
    env = {
        "HOME": os.environ.get("HOME", "/"),
        "PATH": os.environ.get("PATH", os.defpath),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "COLUMNS": WIDTH,
        "STACKSHIFT_NO_START": "1",
        "STACKSHIFT_PROJECT": Home.project or str(Path.cwd()),
        **({"STACKSHIFT_DATA_DIR": Home.data_dir} if Home.data_dir else {}),
    }
    argv = (sys.executable, "-P", "-m", "stackshift_cli", *command)
    try:
        shown = run_command(
            Program(argv, env=env, timeout_ms=PICTURE_MS, is_whole_env=True), check=False
        )
    except (OSError, TimeoutError):
        return ""
    if shown["exit_code"] != 0:
        return ""
    return "\n".join(shown["stdout"].rstrip().splitlines()[:MOST_PICTURE])


NOTIFY: Final = Job(
    name=NOTIFY_JOB,
    handler=notify,
    queue=NOTIFY_QUEUE,
    retry=None,
    timeout_ms=None,
    priority=0,
    concurrency_key="",
    payload_type=Notice,
    idempotency_ttl_ms=None,
    is_async=False,
    module="",
    place="",
)
