"""`stackshift.toml`: every key, and the values in force.

Owns `KEYS`, the only table of keys: values are checked by it, and `config` and the file that `init`
writes are made from it. It reads files and the environment and changes neither. A `Config` is
complete and frozen: it has a checked value for every key, durations in ms, sizes in bytes. A key
that is not in the table is an error, so that a misspelt setting never goes unnoticed.

Short commands do not import it (it needs `dataclasses` and `tomllib`); they use `locate`.
"""

from __future__ import annotations

import difflib
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from stackshift_jobs.errors import BadConfiguration, Usage
from stackshift_jobs.project.database_url import has_password
from stackshift_jobs.project.locate import (
    CONFIG_FILE,
    DATA_DIR_VARIABLE,
    data_dir_of,
)
from stackshift_jobs.project.notify import (
    ALERT_NAMES,
    ALERTS,
    DESTINATION,
    EXPECTATION,
    PATTERNS,
    SECRET_TEXT,
    SMTP,
    WEB_ADDRESS,
)
from stackshift_jobs.project.settings import (
    ADDRESS,
    COMMAND,
    DATABASE,
    DIRECTORIES,
    DURATION,
    ERRORS,
    FLAG,
    GIB,
    HOST_NAME,
    HOST_NAMES,
    KIB,
    MIB,
    OBJECT,
    PARTS,
    PATH,
    PATHS,
    RATE,
    TEXT,
    TEXTS,
    UMASK,
    Kind,
    Rate,
    choice,
    duration,
    number,
    size,
    whole,
)
from stackshift_jobs.project.toml import parse_toml, read_config_text
from stackshift_jobs.schedules import CATCH_UP, OVERLAP, check_terms
from stackshift_jobs.values.limits import MAX_FACTOR
from stackshift_jobs.values.names import NOTIFY_QUEUE, check_name
from stackshift_jobs.values.secrets import Reference

# --- The table -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its place, its kind of value, its default as it would be written in the file (None:
    no value, which means what `unset` says), and one sentence of help."""

    section: str
    name: str
    kind: Kind
    default: Any
    help: str
    unset: str = ""

    @property
    def path(self) -> str:
        """`workers.slots`; `queues.NAME.rate`."""
        return f"{self.section}.{self.name}"

    @property
    def field(self) -> str:
        """The name of its field in the section's class, which ends with the unit: `grace_ms`."""
        return self.name if self.name.endswith(self.kind.unit) else self.name + self.kind.unit

    @property
    def default_text(self) -> str:
        """The default as it would be written in the file, or what having none means."""
        if self.default is None:
            return self.unset
        if isinstance(self.default, bool):
            return str(self.default).lower()
        if isinstance(self.default, str):
            return f'"{self.default}"'
        return str(self.default).replace("'", '"')

    @property
    def advice(self) -> str:
        """What to write instead of a value that is not valid."""
        if self.default is None:
            return f"without a value: {self.unset}; man stackshift.toml has the rest"
        return f"the default is {self.default_text}; man stackshift.toml has the rest"


QUEUES: Final = "queues.NAME"
HOSTS: Final = "hosts.NAME"
NOTIFY: Final = "notify.NAME"
SCHEDULES: Final = "schedules.NAME"
REREAD: Final = frozenset((SCHEDULES, NOTIFY, "heartbeat"))
"""The sections that a reload reads again; the others are read when the daemon starts."""
NAMED: Final = {"queues": QUEUES, "hosts": HOSTS, "notify": NOTIFY, "schedules": SCHEDULES}
"""The tables whose tables have names that users choose, and the section of their keys."""
JOURNAL_URL_VARIABLE: Final = "STACKSHIFT_JOURNAL_URL"
LOCAL: Final = "local"
"""The name of the machine that the daemon runs on, among hosts."""
_project = partial(Key, "project")
_journal = partial(Key, "journal")
_cluster = partial(Key, "cluster")
_workers = partial(Key, "workers")
_queues = partial(Key, QUEUES)
_hosts = partial(Key, HOSTS)
_schedules = partial(Key, SCHEDULES)
_retry = partial(Key, "retry")
_limits = partial(Key, "limits")
_hooks = partial(Key, "hooks")
_notify = partial(Key, NOTIFY)
_heartbeat = partial(Key, "heartbeat")
_secrets = partial(Key, "secrets")
_redact = partial(Key, "redact")

_COUNT: Final = whole(1, 1_000_000)
_PROCESSES: Final = whole(1, 1024)
_PAYLOAD: Final = size(1, 16 * MIB)
_HEARTBEAT: Final = duration("1s", "1h")
_MEMORY: Final = size(16 * MIB, 1024 * GIB)
_DURABILITY: Final = choice("always", "interval")
_BEFORE_REPLY: Final = "Sync before each reply, or every 100 ms, which a power cut can lose."
_OWN_PYTHON: Final = "the project's .venv if it has stackshift-jobs, else the daemon's"
_BREW: Final = ["/opt/homebrew/bin"] if sys.platform == "darwin" else []
_SYSTEM: Final = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
_USUAL_PATH: Final = ["~/.local/bin", *_BREW, *_SYSTEM]
KEYS: Final[tuple[Key, ...]] = (
    _project("name", TEXT, None, "Name of the project.", "the folder's name"),
    _project("jobs", PATHS, ["jobs"], "Folders and files that contain job modules."),
    _project("env_file", PATH, None, "File of NAME=value lines for the workers.", "none"),
    _project("data_dir", PATH, None, "Where journal, socket and logs are.", ".stackshift"),
    _project("watch", FLAG, False, "Reload job modules when they change."),
    _journal("durability", _DURABILITY, "always", _BEFORE_REPLY),
    _journal("segment_size", size(4 * KIB, 4 * GIB), "8MiB", "Size of one journal file."),
    _journal("retention", DURATION, "30d", "How long finished runs and removed keys are kept."),
    _journal("url", DATABASE, None, "PostgreSQL database that has the journal.", "files alone"),
    _journal("lease", duration("1s", "1m"), "3s", "Silence after which another daemon may lead."),
    _journal("patience", duration("10s", "1h"), "2m", "How long an append waits for the database."),
    _cluster("host", HOST_NAME, None, "Name of this machine there.", "the machine's own name"),
    _cluster("listen", ADDRESS, "0.0.0.0:7433", "Where daemons on other machines connect to."),
    _cluster(
        "advertise", ADDRESS, None, "Where they reach it.", "found from the way to the database"
    ),
    _cluster("lead", FLAG, True, "The daemon may lead; else it only follows."),
    _cluster("lend", FLAG, True, "While it follows, its workers serve the one that leads."),
    _workers("processes", _PROCESSES, None, "Worker processes.", "one per CPU"),
    _workers("hosts", HOST_NAMES, [LOCAL], "Where workers are, so many on each; [] if all join."),
    _workers("slots", whole(1, 1024), 16, "Runs at once in one process."),
    _workers("grace", DURATION, "10s", "Time to shut down cleanly before a worker is killed."),
    _workers("heartbeat", _HEARTBEAT, "15s", "A worker that neither beats nor works is lost."),
    _workers("python", PATH, None, "Interpreter of the workers.", _OWN_PYTHON),
    _workers("inherit_env", TEXTS, [], 'Variables passed on to the workers; ["*"] for all.'),
    _workers("path", DIRECTORIES, _USUAL_PATH, "PATH of jobs, after that of the interpreter."),
    _workers("umask", UMASK, "022", "Who can access the files that jobs create."),
    _workers("nice", whole(-20, 19), 0, "Niceness of jobs; below 0 needs privilege."),
    _workers("recycle_runs", _COUNT, None, "Replace a worker after this many runs.", "never"),
    _workers("max_memory", _MEMORY, None, "Replace a worker that uses more memory.", "no limit"),
    _queues("concurrency", _COUNT, None, "Runs at once.", "as many as there are slots"),
    _queues("rate", RATE, None, 'Attempts started per unit of time: "100/m".', "no limit"),
    _queues("rate_burst", _COUNT, 1, "Attempts that may start at once after a lull."),
    _queues("key_concurrency", _COUNT, None, "Runs at once for one concurrency key.", "no limit"),
    _queues("paused", FLAG, False, "Start no runs."),
    _queues("processes", _PROCESSES, None, "Worker processes of its own.", "the shared ones"),
    _queues("hosts", HOST_NAMES, None, "Where these are; [] if all join.", "this machine"),
    _hosts("command", COMMAND, None, "Command that reaches the host.", '["ssh", "NAME"]'),
    _hosts("python", TEXT, "python3", "Interpreter there, with stackshift-jobs."),
    _hosts("code", TEXT, "send", "Directory there that has the code, or send it."),
    _hosts("send", PATHS, None, "Folders and files that are sent.", "those of [project] jobs"),
    _hosts("prepare", COMMAND, None, "Command there, once for each code that is sent.", "none"),
    _schedules("cron", TEXT, None, 'When it ticks, such as "0 2 * * *" or "@daily".', "needed"),
    _schedules("job", TEXT, None, "Job that it starts.", "command says what is started"),
    _schedules("command", COMMAND, None, "Program that it starts.", "job says what is started"),
    _schedules("payload", OBJECT, None, "Payload of the runs of job.", "{}"),
    _schedules("timezone", TEXT, "UTC", "IANA time zone of cron."),
    _schedules("catch_up", choice(*CATCH_UP), "once", "Which missed ticks get a run."),
    _schedules("catch_up_for", DURATION, None, "How old one of them may be.", "any age"),
    _schedules("overlap", choice(*OVERLAP), "skip", "A tick while the last run is unfinished."),
    _schedules("jitter", duration("0s", "1d"), "0s", "How much later a tick may start."),
    _schedules("queue", TEXT, None, "Queue of the runs.", "that of job"),
    _schedules("expect", EXPECTATION, None, "By when, or how often, a run completes.", "nothing"),
    _schedules("max_runtime", DURATION, None, "How long a run may take.", "as job says"),
    _schedules(
        "heartbeat", WEB_ADDRESS, None, "URL to notify when its runs begin and end.", "none"
    ),
    _retry("max_attempts", _COUNT, 3, "Attempts of a run, including the first."),
    _retry("backoff", DURATION, "1s", "Delay before the second attempt."),
    _retry("factor", number(1, MAX_FACTOR), 2.0, "How much longer each delay is than the last."),
    _retry("max_backoff", DURATION, "1h", "The longest delay."),
    _retry("jitter", number(0, 1), 0.1, "Fraction by which a delay varies, up or down."),
    _retry("on", ERRORS, [], "Types of the errors that are retried, by name.", "all"),
    _retry("not_on", ERRORS, [], "Types of those that are not retried.", "none"),
    _limits("payload", _PAYLOAD, "1MiB", "Largest payload, result, event or state value."),
    _limits("run_steps", _COUNT, 10_000, "Steps in one run."),
    _limits("run_bytes", size(1, 64 * GIB), "64MiB", "Size of everything that one run records."),
    _limits("connections", whole(1, 65_536), 256, "Clients connected at once."),
    _hooks("on_failed", COMMAND, None, "Command on failure; the run's JSON on stdin.", "none"),
    _hooks("on_completed", COMMAND, None, "Command on success; the run's JSON on stdin.", "none"),
    _notify(
        "to", DESTINATION, None, "Where alerts are sent: ntfy, slack, mailto or https.", "none"
    ),
    _notify("command", COMMAND, None, "Command that is given them on stdin instead.", "none"),
    _notify("on", ALERT_NAMES, list(ALERTS), "Alerts that are sent."),
    _notify("jobs", PATTERNS, [], "Jobs that they are about, by name or pattern.", "all"),
    _notify("queues", PATTERNS, [], "Queues that they are about.", "all"),
    _notify("token", SECRET_TEXT, None, "Token or password for the destination.", "none"),
    _notify("sender", TEXT, None, "From whom mail is.", "the account that the daemon runs as"),
    _notify("smtp", SMTP, None, "Mail server.", "the sendmail program"),
    _notify(
        "quiet", duration("1s", "7d"), "5m", "The same is told once in this time, and counted."
    ),
    _notify("rate", RATE, "20/h", "Messages; what is more is told in one."),
    _notify("max_attempts", whole(1, 1000), 20, "Times that a delivery is tried."),
    _heartbeat("url", WEB_ADDRESS, None, "Where the daemon shows that it is alive.", "nowhere"),
    _heartbeat("period", duration("1s", "1d"), "1m", "How often it does."),
    _secrets("env", TEXTS, ["*"], 'Variables that {"$env": "NAME"} in a payload may name.'),
    _secrets("files", TEXTS, [".", "/run/secrets"], 'Folders that {"$file": "path"} may name.'),
    _redact("payload", PARTS, [], 'Paths in payloads that are not shown: ["card.number"].'),
)

_BY_PATH: Final = {key.path: key for key in KEYS}
SECTIONS: Final = tuple(dict.fromkeys(key.section for key in KEYS))

# --- The values ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProjectSection:
    """`[project]`; `jobs` are paths relative to the project's root."""

    name: str
    jobs: tuple[str, ...]
    env_file: str | None
    data_dir: str | None
    watch: bool


@dataclass(frozen=True, slots=True)
class JournalSection:
    """`[journal]`; `durability` is `always` or `interval`, `url` None if the journal is in files
    alone."""

    durability: str
    segment_size_bytes: int
    retention_ms: int
    url: str | None
    lease_ms: int
    patience_ms: int


@dataclass(frozen=True, slots=True)
class ClusterSection:
    """`[cluster]`, which counts only where the journal has a URL; None means that it is found
    out. Addresses are host and port."""

    host: str | None
    listen: tuple[str, int]
    advertise: tuple[str, int] | None
    lead: bool
    lend: bool


@dataclass(frozen=True, slots=True)
class WorkersSection:
    """`[workers]`; None means that the daemon chooses (`python`), or that there is no limit."""

    processes: int
    hosts: tuple[str, ...]
    slots: int
    grace_ms: int
    heartbeat_ms: int
    python: str | None
    inherit_env: tuple[str, ...]
    path: tuple[str, ...]
    umask: int
    nice: int
    recycle_runs: int | None
    max_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class QueueSection:
    """`[queues.NAME]`; None means no limit, or no processes, of its own."""

    concurrency: int | None
    rate: Rate | None
    rate_burst: int
    key_concurrency: int | None
    paused: bool
    processes: int | None
    hosts: tuple[str, ...] | None

    @property
    def has_own(self) -> bool:
        """Are there workers for it alone? With `hosts = []` none are started: they join."""
        return self.hosts is not None or self.processes is not None

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """The hosts of its own workers, and how many there are on each; none if it has none."""
        if self.hosts is None:
            return () if self.processes is None else ((LOCAL, self.processes),)
        return tuple((host, self.processes or 1) for host in self.hosts)


@dataclass(frozen=True, slots=True)
class HostSection:
    """`[hosts.NAME]`; None means the default that depends on the name or the project."""

    command: tuple[str, ...] | None
    python: str
    code: str
    send: tuple[str, ...] | None
    prepare: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class ScheduleSection:
    """`[schedules.NAME]`; `payload` is JSON, None for an empty one. Either `job` or `command` is
    given. Expressions and zones are not checked here, since the SDK knows no cron."""

    cron: str
    job: str | None
    command: tuple[str, ...] | None
    payload: str | None
    timezone: str
    catch_up: str
    catch_up_for_ms: int | None
    overlap: str
    jitter_ms: int
    queue: str | None
    expect: str | None
    max_runtime_ms: int | None
    heartbeat: str | Reference | None


@dataclass(frozen=True, slots=True)
class RetrySection:
    """`[retry]`: the project's defaults, which jobs and starts can override."""

    max_attempts: int
    backoff_ms: int
    factor: float
    max_backoff_ms: int
    jitter: float
    on: tuple[str, ...]
    not_on: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LimitsSection:
    """`[limits]`, as in `KEYS`."""

    payload_bytes: int
    run_steps: int
    run_bytes: int
    connections: int


@dataclass(frozen=True, slots=True)
class HooksSection:
    """`[hooks]`: the commands as argument lists; None means that there is no hook."""

    on_failed: tuple[str, ...] | None
    on_completed: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class NotifySection:
    """`[notify.NAME]`: exactly one of `to` and `command` is set. What is a secret may be a
    reference to one."""

    to: str | Reference | None
    command: tuple[str, ...] | None
    on: tuple[str, ...]
    jobs: tuple[str, ...]
    queues: tuple[str, ...]
    token: str | Reference | None
    sender: str | None
    smtp: str | None
    quiet_ms: int
    rate: Rate
    max_attempts: int


@dataclass(frozen=True, slots=True)
class HeartbeatSection:
    """`[heartbeat]`; without a `url` there is none."""

    url: str | Reference | None
    period_ms: int


@dataclass(frozen=True, slots=True)
class SecretsSection:
    """`[secrets]`: what references in payloads may name: patterns of names of variables, and
    folders, relative to the project's root."""

    env: tuple[str, ...]
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RedactSection:
    """`[redact]`: paths as in `values.redaction`."""

    payload: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of a project. `origins` has, for each key that is not at its default, the source
    of its value: a file or an environment variable."""

    root: Path
    data_dir: Path
    project: ProjectSection
    journal: JournalSection
    cluster: ClusterSection
    workers: WorkersSection
    queues: Mapping[str, QueueSection]
    hosts: Mapping[str, HostSection]
    """Those that workers are placed on; a host that is only named has the defaults."""
    schedules: Mapping[str, ScheduleSection]
    retry: RetrySection
    limits: LimitsSection
    hooks: HooksSection
    notify: Mapping[str, NotifySection]
    heartbeat: HeartbeatSection
    secrets: SecretsSection
    redact: RedactSection
    origins: Mapping[str, str]

    @property
    def member(self) -> str:
        """The name of this machine among those whose daemons share the journal; empty if they share
        none."""
        return "" if self.journal.url is None else self.cluster.host or socket.gethostname()

    def queue(self, name: str) -> QueueSection:
        """The settings of queue `name`: the defaults if the file does not mention it."""
        return self.queues.get(name) or QueueSection(**_section(QUEUES, QUEUES, {}, ""))


def load_config(root: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of the project at `root`.

    Raises `BadConfiguration`, which names the file and the line (of a syntax error) or the key.
    """
    path = Path(root, CONFIG_FILE)
    tables = parse_toml(read_config_text(path), path)
    for name in tables:
        if name not in SECTIONS and name not in NAMED:
            raise unknown_key(name, str(path))
    where = str(path)
    fields = {
        name: _section(name, name, tables.get(name, {}), where)
        for name in SECTIONS
        if name not in NAMED.values()
    }
    queues = {
        _queue_name(name, where): QueueSection(**_section(QUEUES, f"queues.{name}", table, where))
        for name, table in _table(tables.get("queues", {}), "queues", where).items()
    }
    notify = {
        name: _notify_section(name, table, where)
        for name, table in _table(tables.get("notify", {}), "notify", where).items()
    }
    if notify and NOTIFY_QUEUE not in queues:
        # A process of its own: that every slot is taken may be what there is to tell.
        own = _section(QUEUES, QUEUES, {"processes": 1}, where)
        queues[NOTIFY_QUEUE] = QueueSection(**own)
    written = _table(tables.get("hosts", {}), "hosts", where)
    fields["project"]["name"] = fields["project"]["name"] or Path(root).resolve().name or "project"
    fields["workers"]["processes"] = fields["workers"]["processes"] or cpu_count()
    env = os.environ if environ is None else environ
    _take_url(fields["journal"], env, where)
    return Config(
        root=Path(root),
        data_dir=data_dir_of(root, env),
        project=ProjectSection(**fields["project"]),
        journal=JournalSection(**fields["journal"]),
        cluster=ClusterSection(**fields["cluster"]),
        workers=WorkersSection(**fields["workers"]),
        queues=MappingProxyType(queues),
        hosts=MappingProxyType(_hosts_of(written, fields["workers"]["hosts"], queues, where)),
        schedules=MappingProxyType(_schedules_of(tables.get("schedules", {}), where)),
        retry=RetrySection(**fields["retry"]),
        limits=LimitsSection(**fields["limits"]),
        hooks=HooksSection(**fields["hooks"]),
        notify=MappingProxyType(notify),
        heartbeat=HeartbeatSection(**fields["heartbeat"]),
        secrets=SecretsSection(**fields["secrets"]),
        redact=RedactSection(**fields["redact"]),
        origins=MappingProxyType(dict(_origins(tables, env))),
    )


def _take_url(journal: dict[str, Any], env: Mapping[str, str], where: str) -> None:
    """Let the environment say where the journal is. Raises `BadConfiguration`."""
    if text := env.get(JOURNAL_URL_VARIABLE):
        try:
            journal["url"] = DATABASE.read(text)
        except ValueError as bad:
            raise BadConfiguration(
                f"{JOURNAL_URL_VARIABLE} is not {bad}", key="journal.url"
            ) from None
    elif has_password(journal["url"] or ""):
        raise BadConfiguration(
            f"{where}: journal.url has a password, in a file that others read",
            hint=f"put it into ~/.pgpass, or the whole URL into {JOURNAL_URL_VARIABLE}",
            file=where,
            key="journal.url",
        )
    if journal["url"] and journal["durability"] != "always":
        raise BadConfiguration(
            f"{where}: journal.durability: the database makes each append durable",
            hint="remove it, or journal.url",
            file=where,
            key="journal.durability",
        )


def find_key(path: str) -> Key:
    """The key at a path such as `workers.slots` or `queues.emails.rate`; raises `BadConfiguration`,
    which names the nearest key or those of the table, if there is none."""
    section, _, name = path.rpartition(".")
    section = NAMED.get(section.partition(".")[0], section) if "." in section else section
    if key := _BY_PATH.get(f"{section}.{name}"):
        return key
    if inside := _settings_of(path):
        raise BadConfiguration(
            f"{path} is a table of settings, and not one of them",
            hint=f"one of: {', '.join(inside)}",
            key=path,
        )
    raise unknown_key(path, "")


def _settings_of(path: str) -> list[str]:
    """The paths of the settings in the table `path`, which is a section, `queues` or one queue's,
    or the same of hosts; empty for anything else."""
    table, dot, name = path.partition(".")
    section = NAMED.get(table, path)
    shown = path if dot else section
    is_one = path.count(".") < 2 and bool(table) and bool(name or not dot)
    return [f"{shown}.{key.name}" for key in KEYS if key.section == section] if is_one else []


def unknown_key(path: str, file: str) -> BadConfiguration:
    """The error for a key or section that does not exist; it suggests the nearest one that does."""
    near = _nearest(path)
    return BadConfiguration(
        f"{file}{': ' if file else ''}{path}: no such key",
        hint=f"did you mean {near}?",
        file=file,
        key=path,
        near=near,
    )


def cpu_count() -> int:
    """The number of CPUs that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _nearest(path: str) -> str:
    """The key or section that `path` most likely means. The same name in another section ranks
    above a similar name: headings are forgotten more often than keys are misspelt."""
    section, _, name = path.rpartition(".")
    section = NAMED.get(section.partition(".")[0], section)
    inside = {key.name: key.path for key in KEYS if key.section == section}
    if close := difflib.get_close_matches(name, inside, 1):
        return inside[close[0]]
    names = {key.name: key.path for key in KEYS}
    if not section and (close := difflib.get_close_matches(name, (*SECTIONS, *NAMED), 1)):
        return close[0]
    if close := difflib.get_close_matches(name, names, 1):
        return names[close[0]]
    return difflib.get_close_matches(path, _BY_PATH, 1, cutoff=0.0)[0]


def _section(section: str, shown: str, table: object, file: str) -> dict[str, Any]:
    """The fields of a section, read from its table in the file; `shown` is its name there."""
    keys = {key.name: key for key in KEYS if key.section == section}
    written = _table(table, shown, file)
    for name in written:
        if name not in keys:
            raise unknown_key(f"{shown}.{name}", file)
    fields: dict[str, Any] = {}
    for key in keys.values():
        value = written.get(key.name, key.default)
        try:
            fields[key.field] = None if value is None else key.kind.read(value)
        except ValueError as bad:
            raise BadConfiguration(
                f"{file}: {shown}.{key.name}: {value!r} is not {bad}",
                hint=key.advice,
                file=file,
                key=f"{shown}.{key.name}",
            ) from None
    return fields


def _table(value: object, name: str, file: str) -> dict[str, Any]:
    if isinstance(value, dict):
        return value
    raise BadConfiguration(
        f"{file}: {name}: {value!r} is not a table", hint=f"write [{name}]", file=file, key=name
    )


def _hosts_of(
    written: Mapping[str, Any],
    shared: Iterable[str],
    queues: Mapping[str, QueueSection],
    where: str,
) -> dict[str, HostSection]:
    """The hosts that are written or that workers are placed on. Nothing says of a misspelt name in
    `hosts` that it is one: ssh knows more names than we do."""
    for name in written:
        try:
            HOST_NAMES.read([name])
        except ValueError:
            raise BadConfiguration(
                f"{where}: hosts: {name!r} is no name of a host",
                hint="use letters, digits and . _ @ -; [hosts.NAME] command says how to reach it",
                file=where,
                key="hosts",
            ) from None
    if LOCAL in written:
        raise BadConfiguration(
            f"{where}: hosts.{LOCAL}: {LOCAL} is the machine of the daemon",
            hint="give the host another name",
            file=where,
            key=f"hosts.{LOCAL}",
        )
    named = [*shared, *(host for queue in queues.values() for host in queue.hosts or ())]
    tables: dict[str, Any] = {**{name: {} for name in named}, **written}
    tables.pop(LOCAL, None)
    return {
        name: HostSection(**_section(HOSTS, f"hosts.{name}", table, where))
        for name, table in tables.items()
    }


def _notify_section(name: str, table: object, where: str) -> NotifySection:
    """One `[notify.NAME]`. Raises `BadConfiguration`."""
    shown = f"notify.{name}"
    try:
        check_name(name, "notify")
    except Usage as bad:
        raise BadConfiguration(
            f"{where}: notify: {bad.message}", hint=bad.hint, file=where, key="notify"
        ) from bad
    section = NotifySection(**_section(NOTIFY, shown, table, where))
    if (section.to is None) == (section.command is None):
        what = "neither to nor command is" if section.to is None else "both to and command are"
        raise BadConfiguration(
            f"{where}: {shown}: {what} given",
            hint='write to = "ntfy://ntfy.sh/TOPIC", or command = ["PROGRAM"]',
            file=where,
            key=f"{shown}.to",
        )
    return section


def _schedules_of(tables: object, where: str) -> dict[str, ScheduleSection]:
    """The schedules that the file declares. Raises `BadConfiguration`."""
    found: dict[str, ScheduleSection] = {}
    for name, table in _table(tables, "schedules", where).items():
        shown = f"schedules.{name}"
        fields = _section(SCHEDULES, shown, table, where)
        problem = ""
        if fields["cron"] is None:
            problem, hint = "no time is given", 'cron = "0 2 * * *"'
        elif (fields["job"] is None) == (fields["command"] is None):
            problem, hint = "one of job and command is needed", "what is it to start?"
        elif fields["payload"] is not None and fields["job"] is None:
            problem, hint = "a command has no payload", "leave payload out"
        try:
            check_name(name, "schedule")
            check_terms(
                fields["catch_up"],
                fields["catch_up_for_ms"] or 0,
                fields["overlap"],
                fields["jitter_ms"],
            )
        except Usage as bad:
            problem, hint = bad.message, bad.hint
        if problem:
            raise BadConfiguration(f"{where}: {shown}: {problem}", hint=hint, file=where, key=shown)
        found[name] = ScheduleSection(**fields)
    return found


def _queue_name(name: str, file: str) -> str:
    try:
        return check_name(name, "queue")
    except Usage as bad:
        raise BadConfiguration(
            f"{file}: queues: {bad.message}", hint=bad.hint, file=file, key="queues"
        ) from bad


def _origins(tables: Mapping[str, Any], env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Each key that is not at its default, and the source of its value."""
    for section, table in tables.items():
        if section in NAMED:
            for own, inner in table.items():
                yield from ((f"{section}.{own}.{name}", CONFIG_FILE) for name in inner)
        else:
            yield from ((f"{section}.{name}", CONFIG_FILE) for name in table)
    if env.get(DATA_DIR_VARIABLE):
        yield "project.data_dir", DATA_DIR_VARIABLE
    if env.get(JOURNAL_URL_VARIABLE):
        yield "journal.url", JOURNAL_URL_VARIABLE
