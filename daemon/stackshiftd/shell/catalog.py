"""The jobs that the daemon knows, from its workers' greetings, and what a start of one means."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final

import msgspec
from msgspec import Raw

from stackshift_jobs.errors import (
    BadConfiguration,
    Busy,
    NotFound,
    PayloadRefused,
    Usage,
    import_error,
)
from stackshift_jobs.project.config import Config
from stackshift_jobs.values.durations import MAX_DURATION_MS, parse_time
from stackshift_jobs.values.json_schema import FORMATS
from stackshift_jobs.values.labels import check_labels
from stackshift_jobs.values.limits import KEY_TTL_MS, MAX_PRIORITY, ON_DUPLICATE
from stackshift_jobs.values.names import check_key, check_name, one_of
from stackshift_jobs.values.strict_json import canonical, dumps, loads
from stackshift_jobs.values.templates import fill
from stackshiftd.core.commands import StartRun
from stackshiftd.core.records import (
    DEFAULT_LIMITS,
    DEFAULT_TERMS,
    FollowUp,
    QueueTerms,
    RetryTerms,
    RunLimits,
)
from stackshiftd.shell.built_in import BUILT_IN, CODES
from stackshiftd.shell.code_files import LoadedCode
from stackshiftd.shell.params import within
from stackshiftd.shell.payload_refusal import refusal
from stackshiftd.worker.code_files import CodeFile
from stackshiftd.worker.frames import FailedModule, Greeting, JobFacts

MAX_ATTEMPTS: Final = 1_000_000


class StartParams(msgspec.Struct, forbid_unknown_fields=True):
    """The params of `run.start`."""

    job: str
    payload: Raw = Raw(b"{}")
    queue: str | None = None
    idempotency_key: str | None = None
    idempotency_ttl_ms: int | None = None
    delay_ms: int | None = None
    scheduled_at: str | None = None
    priority: int | None = None
    max_attempts: int | None = None
    backoff_ms: int | None = None
    timeout_ms: int | None = None
    labels: dict[str, str] = {}
    unique: str | None = None
    on_duplicate: str | None = None
    ttl_ms: int | None = None
    deadline_ms: int | None = None
    retry_failed: bool = False
    after: list[str] = []
    even_if_failed: bool = False
    dry_run: bool = False
    full: bool = False


class Catalog:
    """The jobs that can be started. It is never emptied: the last greeting stays in effect."""

    def __init__(self, config: Config) -> None:
        self._config = config
        limits = RunLimits(config.limits.run_steps, config.limits.run_bytes)
        self._limits = DEFAULT_LIMITS if limits == DEFAULT_LIMITS else limits
        project = config.retry
        terms = RetryTerms(
            project.max_attempts,
            project.backoff_ms,
            project.factor,
            project.max_backoff_ms,
            project.jitter,
            list(project.on),
            list(project.not_on),
        )
        self._terms = DEFAULT_TERMS if terms == DEFAULT_TERMS else terms
        self.jobs: dict[str, JobFacts] = {}
        """The project's, by name."""
        self.codes: dict[str, str] = {}
        self.told_codes: dict[str, str] = {}
        """The codes of jobs that people know to be loaded: those of the start, or of the last
        reload."""
        self.runnable: dict[str, str] = dict(CODES)
        """The codes of all jobs that a worker can be given: the project's, and those built in."""
        self.queues: dict[str, QueueTerms] = {}
        """The limits of queues that the job modules declare."""
        self.failed: list[FailedModule] = []
        """Modules that could not be imported."""
        self.kept: frozenset[str] = frozenset()
        """The names of those of them whose code from before goes on."""
        self.code = LoadedCode(config)
        self.greeted = False
        """True once a worker has greeted."""
        self.importing = ""
        """The module whose import a worker began last."""
        self._checks: dict[str, Callable[[Any], Any]] = {}
        self._plain: dict[str, StartRun] = {}
        """See `_plain_of`; by job."""

    def learn(
        self,
        jobs: list[JobFacts],
        failed: list[FailedModule],
        queues: dict[str, QueueTerms] | None = None,
        files: dict[str, CodeFile] | None = None,
    ) -> None:
        """Replace everything with the contents of a worker's greeting."""
        self.queues = queues or {}
        self.jobs = {job.name: job for job in jobs}
        self.codes = {job.name: job.code for job in jobs}
        if not self.greeted:
            self.told_codes = self.codes
        self.greeted = True
        self.runnable = self.codes | CODES
        self.failed = failed
        self.kept = frozenset()
        if files is not None:
            self.code.imported(files, failed)
        self._checks.clear()
        self._plain.clear()

    def tell(self) -> None:
        """From now on people know what is loaded."""
        self.told_codes = self.codes
        self.code.tell()

    def refused(self, greeting: Greeting) -> None:
        """Note that the modules as they are now could not be imported: the code from before goes
        on."""
        self.failed = greeting.failed
        loaded = {job.module for job in self.jobs.values()}
        self.kept = frozenset(failed.module for failed in greeting.failed) & loaded
        self.code.imported(greeting.files, greeting.failed)

    def notes(self, job: str) -> list[str]:
        """What whoever starts `job` should know of its code, in sentences."""
        facts = self.jobs.get(job)
        return self.code.notes() or [
            f"{shown(failed)}: the code from before goes on"
            for failed in self.failed
            if facts is not None and failed.module == facts.module and failed.module in self.kept
        ]

    def find(self, name: str) -> JobFacts:
        """The job with this name.

        Raises `NotFound` with similar names, `BadConfiguration` if the job may be missing because a
        module could not be imported, and `Busy` before the first greeting.
        """
        job = self.jobs.get(name) or BUILT_IN.get(name)
        if job is not None:
            return job
        if not self.greeted:
            at = f": {self.importing} is being imported" if self.importing else ""
            raise Busy(
                f"no worker has loaded the job modules yet{at}",
                hint="try again; if this persists: stackshift jobs check, stackshift daemon logs",
            )
        near = difflib.get_close_matches(name, self.jobs, 3)
        meant = [f"did you mean {near[0]}?"] if near else []
        changed = self.code.notes_now()  # It may have been added just now.
        if self.failed:
            about = (failed for failed in self.failed if repr(name) in failed.message)
            first, count = next(about, self.failed[0]), len(self.failed)
            modules = "a module" if count == 1 else f"{count} modules"
            raise BadConfiguration(
                f"no job is named {name!r}, and {modules} failed to import: {shown(first)}",
                hint="; ".join([*meant, *changed]) or "stackshift jobs check",
                near=near,
                failed_modules=[msgspec.to_builtins(module) for module in self.failed],
            )
        hint = "; ".join([*meant, *changed]) or "stackshift jobs list"
        raise NotFound(f"no job is named {name!r}", hint=hint, near=near)

    def start_command(self, params: StartParams, run: str, now_us: int) -> StartRun:
        """The command that starts the run `run` with `params`.

        Raises what `find` raises, `Usage`, and `PayloadRefused`.
        """
        job = self.find(params.job)
        template = job.unique if params.unique is None else ""
        key = params.idempotency_key
        needed = key is not None or bool(job.concurrency_key or template)
        payload, value = self._payload(job, params.payload, needed)
        said: dict[str, Any] = {}
        if params != StartParams(params.job, params.payload, None, key, full=params.full):
            said = self._said(job, params, value, now_us)
        elif key is not None:
            said = self._said_key(job, params, value)
        if job.concurrency_key:
            said["concurrency_key"] = _filled(job.concurrency_key, value, "concurrency key")
        if template:
            said["unique"] = _filled(template, value, "unique key")
        return msgspec.structs.replace(self._plain_of(job), run=run, payload=payload, **said)

    def _plain_of(self, job: JobFacts) -> StartRun:
        """The command of a start that says nothing, of the job alone; without run and payload."""
        plain = self._plain.get(job.name)
        if plain is None:
            plain = self._plain[job.name] = StartRun(
                run="",
                job=job.name,
                queue=check_name(job.queue, "queue"),
                payload=b"",
                retry=self.terms(job),
                limits=self._limits,
                timeout_ms=job.timeout_ms or 0,
                priority=job.priority,
                on_duplicate=job.on_duplicate,
                ttl_ms=job.ttl_ms or 0,
                deadline_ms=job.deadline_ms or 0,
                on_failure=self._follow_up(job.on_failure),
                on_success=self._follow_up(job.on_success),
                max_runtime_ms=job.max_runtime_ms or 0,
            )
        return plain

    def _said(self, job: JobFacts, params: StartParams, value: Any, now_us: int) -> dict[str, Any]:
        """The fields of the command that the start itself sets. `value` is its payload, if it has
        an idempotency key."""
        said = self._said_key(job, params, value)
        said["even_if_failed"] = params.even_if_failed
        said["due_us"] = due(params.delay_ms, params.scheduled_at, now_us)
        terms: dict[str, int] = {}
        if params.max_attempts is not None:
            terms["max_attempts"] = within(params.max_attempts, 1, MAX_ATTEMPTS, "max_attempts")
        if params.backoff_ms is not None:
            terms["backoff_ms"] = within(params.backoff_ms, 0, MAX_DURATION_MS, "backoff_ms")
        if terms:
            said["retry"] = msgspec.structs.replace(self.terms(job), **terms)
        if params.unique is not None:
            said["unique"] = check_key(params.unique, "a unique key")
        elif params.on_duplicate is not None and not job.unique:
            raise Usage(f"on_duplicate requires a unique key, and job {job.name!r} has none")
        if params.on_duplicate is not None:
            said["on_duplicate"] = one_of(params.on_duplicate, ON_DUPLICATE, "on_duplicate")
        if params.priority is not None:
            said["priority"] = within(params.priority, -MAX_PRIORITY, MAX_PRIORITY, "priority")
        if params.queue is not None:
            said["queue"] = check_name(params.queue, "queue")
        for name in ("timeout_ms", "ttl_ms", "deadline_ms"):
            given_ms = getattr(params, name)
            if given_ms is not None:
                said[name] = within(given_ms, 1, MAX_DURATION_MS, name)
        if params.labels:
            said["labels"] = check_labels(params.labels)
        return said

    def _said_key(self, job: JobFacts, params: StartParams, value: Any) -> dict[str, Any]:
        if params.idempotency_key is not None:
            return {
                "key": check_key(params.idempotency_key, "an idempotency key"),
                "key_ttl_ms": self._key_ttl(job, params),
                "digest": sha256(canonical(value)).hexdigest(),
            }
        if params.idempotency_ttl_ms is not None:
            raise Usage("idempotency_ttl_ms is given without an idempotency_key")
        if params.retry_failed:
            raise Usage("retry_failed is given without an idempotency_key")
        return {}

    def _follow_up(self, name: str) -> FollowUp | None:
        """The run that a run starts by its end. If no worker has its job, it is started all the
        same, and waits for the job."""
        if not name:
            return None
        job = self.jobs.get(name)
        if job is None:
            return FollowUp(name, retry=self._terms)
        return FollowUp(
            name,
            job.queue,
            self.terms(job),
            job.timeout_ms or 0,
            job.priority,
            job.ttl_ms or 0,
            job.deadline_ms or 0,
        )

    def keys_of(self, job: str, payload: Any) -> tuple[str, str] | None:
        """The concurrency key and the unique key of a payload for `job`, empty for none; None if
        the job is no longer known. Raises `PayloadRefused`."""
        facts = self.jobs.get(job) or BUILT_IN.get(job)
        if facts is None:
            return None
        unique = _filled(facts.unique, payload, "unique key")
        return _filled(facts.concurrency_key, payload, "concurrency key"), unique

    def terms(self, job: JobFacts) -> RetryTerms:
        """The retry terms of the job: its own, or else the project's."""
        return job.retry if job.retry is not None else self._terms

    def key_ttl_ms(self, job: JobFacts) -> int:
        """How long idempotency keys live by default: as the job says, or else 30 days."""
        ttl_ms = job.idempotency_ttl_ms
        return KEY_TTL_MS if ttl_ms is None else ttl_ms

    def _key_ttl(self, job: JobFacts, params: StartParams) -> int:
        ttl_ms = params.idempotency_ttl_ms
        if ttl_ms is None:
            ttl_ms = self.key_ttl_ms(job)
        return within(ttl_ms, 0, MAX_DURATION_MS, "idempotency_ttl_ms")

    def _payload(self, job: JobFacts, raw: Raw, needed: bool) -> tuple[bytes, Any]:
        """The checked payload as ASCII JSON, and its value (None unless `needed` or checked)."""
        text = bytes(raw)
        limit = self._config.limits.payload_bytes
        if job.schema is None and len(text) <= limit and is_simple(text):
            return text, _decode_plain(text) if needed else None
        value = loads(text, limit, "the payload")
        if job.schema is not None:
            self._check(job, job.schema, value)
        if text.isascii():
            return text, value
        return dumps(value, limit * 6, "the payload"), value

    def _check(self, job: JobFacts, schema: dict[str, Any], value: Any) -> None:
        """Check the payload against the job's type. Raises `PayloadRefused` with the path and what
        is expected there."""
        import fastjsonschema  # Only needed if a job has a typed payload.

        check = self._checks.get(job.name)
        if check is None:
            # The type fills in defaults later: a payload is stored, and compared, as it came.
            check = self._checks[job.name] = fastjsonschema.compile(
                schema, use_default=False, formats=FORMATS
            )
        try:
            check(value)
        except fastjsonschema.JsonSchemaValueException as bad:
            path, why = refusal(bad, schema)
            raise PayloadRefused(
                f"payload of {job.name} at {path}: {why}",
                hint=f"stackshift jobs schema {job.name}",
                path=path,
            ) from bad


def shown(failed: FailedModule) -> str:
    """A module that cannot be imported, in a line. Only some of the reasons have a place in the
    file: there is none in a folder that does not exist."""
    line = f":{failed.line}" if failed.line else ""
    return f"{failed.file}{line}: {import_error(failed.type, failed.message)}"


def _filled(template: str, payload: Any, what: str) -> str:
    """The key that the payload gives in the template of `what`; empty without a template. Raises
    `PayloadRefused` if it is not a valid key."""
    if not template:
        return ""
    key = fill(template, payload, what)
    try:
        return check_key(key, f"a {what}")
    except Usage as bad:
        raise PayloadRefused(
            f"the {what} {template!r} with this payload: {bad.message[:200]}",
            hint=bad.hint,
            path="$",
        ) from bad


_decode_plain: Final = msgspec.json.Decoder().decode
"""The same values as `loads`, of texts that are simple."""
_SIMPLE_BYTES: Final = 4096
_TEXT: Final = rb'"[ !#-\[\]-~]*"'
_SCALAR: Final = (
    rb"(?:0|-?[1-9][0-9]{0,17}|-?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,17}|true|false|null|%b)" % _TEXT
)
_VALUE: Final = rb"(?:%b|\[(?:%b(?:, ?%b)*)?\])" % (_SCALAR, _SCALAR, _SCALAR)
_MEMBER: Final = rb"%b: ?%b" % (_TEXT, _VALUE)
_SIMPLE: Final = re.compile(rb"%b|\{(?:%b(?:, ?%b)*)?\}" % (_VALUE, _MEMBER, _MEMBER))
"""A number, a text, a literal, a list of them, or an object of such."""


def is_simple(text: bytes) -> bool:
    """Is `text` JSON that is certainly strict: ASCII without escapes, without long numbers and
    duplicate keys, in at most two levels? Most payloads are."""
    if len(text) > _SIMPLE_BYTES or _SIMPLE.fullmatch(text) is None:
        return False
    members = text.count(b'":')
    return members <= 1 or len(_decode_plain(text)) == members


def due(delay_ms: int | None, scheduled_at: str | None, now_us: int) -> int:
    """The time that a start or a move asks for, in µs; 0 for none. Raises `Usage`."""
    if delay_ms is not None and scheduled_at is not None:
        raise Usage("only one of delay_ms and scheduled_at can be given")
    if delay_ms is not None:
        return now_us + within(delay_ms, 0, MAX_DURATION_MS, "delay_ms") * 1000
    if scheduled_at is None:
        return 0
    due_us = parse_time(scheduled_at)
    if due_us > now_us + MAX_DURATION_MS * 1000:
        raise Usage(f"scheduled_at {scheduled_at} is more than 10 years away")
    return max(due_us, 1)
