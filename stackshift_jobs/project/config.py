"""`stackshift.toml`: every key, and the values in force.

Owns `KEYS`, the one table from which values are checked and the guide, the man page and `config`
are made. It reads files and the environment and changes neither. A `Config` is complete and frozen:
every key has a value in it, checked, durations in ms, sizes in bytes. A key that is not in the
table is an error, so that a misspelt setting is never silently without effect.

Not on the path of short commands (it needs `dataclasses` and `tomllib`): those ask `project`.
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from stackshift_jobs.errors import BadConfiguration, Usage
from stackshift_jobs.project.locate import (
    CONFIG_FILE,
    DATA_DIR_VARIABLE,
    data_dir_of,
    parse_toml,
    read_config_text,
)
from stackshift_jobs.project.settings import (
    COMMAND,
    DURATION,
    FLAG,
    GIB,
    KIB,
    MIB,
    PATH,
    PATHS,
    RATE,
    TEXT,
    TEXTS,
    Kind,
    Rate,
    choice,
    number,
    size,
    whole,
)
from stackshift_jobs.values.names import check_name

# --- The table -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Key:
    """One key: where it stands, what it holds, its default as one would write it (None: without a
    value, which means `unset`), and a sentence for people."""

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
        """The name of its field in the section's class, which ends in the unit: `grace_ms`."""
        return self.name if self.name.endswith(self.kind.unit) else self.name + self.kind.unit

    @property
    def default_text(self) -> str:
        """The default for people: as it would stand in the file, or what its absence means."""
        if self.default is None:
            return self.unset
        if isinstance(self.default, bool):
            return str(self.default).lower()
        if isinstance(self.default, str):
            return f'"{self.default}"'
        return str(self.default).replace("'", '"')


_MANY: Final = 1_000_000
QUEUES: Final = "queues.NAME"
KEYS: Final[tuple[Key, ...]] = (
    Key("project", "name", TEXT, None, "What the project is called.", "the folder's name"),
    Key("project", "jobs", PATHS, ["jobs"], "Folders or files of job modules."),
    Key(
        "project",
        "env_file",
        PATH,
        None,
        "Environment of workers: a file of NAME=value lines.",
        "none",
    ),
    Key("project", "data_dir", PATH, None, "Where journal, socket and logs lie.", ".stackshift"),
    Key("project", "watch", FLAG, False, "Load changed job modules by itself."),
    Key(
        "journal",
        "durability",
        choice("always", "interval"),
        "always",
        "Acknowledge after the disk has it, or every 100 ms, which a power cut can lose.",
    ),
    Key("journal", "segment_size", size(4 * KIB, 4 * GIB), "64MiB", "Size of one journal file."),
    Key(
        "journal", "retention", DURATION, "30d", "How long finished runs and removed keys are kept."
    ),
    Key("workers", "processes", whole(1, 1024), None, "Worker processes.", "one a CPU"),
    Key("workers", "slots", whole(1, 1024), 16, "Runs at a time in one process."),
    Key(
        "workers", "grace", DURATION, "10s", "Time to end in good order before a worker is killed."
    ),
    Key(
        "workers",
        "python",
        PATH,
        None,
        "The interpreter of workers.",
        "the project's .venv if it has stackshift-jobs, else the daemon's",
    ),
    Key("workers", "inherit_env", TEXTS, [], 'Variables handed on to workers; ["*"] for all.'),
    Key(
        "workers",
        "recycle_runs",
        whole(1, _MANY),
        None,
        "Replace a worker after so many runs.",
        "never",
    ),
    Key(
        "workers",
        "max_memory",
        size(16 * MIB, 1024 * GIB),
        None,
        "Replace a worker that holds more memory.",
        "no limit",
    ),
    Key(
        QUEUES, "concurrency", whole(1, _MANY), None, "Runs at once.", "as many as there are slots"
    ),
    Key(QUEUES, "rate", RATE, None, 'Attempts started in a time: "100/m".', "no limit"),
    Key(QUEUES, "rate_burst", whole(1, _MANY), 1, "Attempts that may start at once after a lull."),
    Key(
        QUEUES,
        "key_concurrency",
        whole(1, _MANY),
        None,
        "Runs at once for one concurrency key.",
        "no limit",
    ),
    Key(QUEUES, "paused", FLAG, False, "Start nothing."),
    Key(
        QUEUES,
        "processes",
        whole(1, 1024),
        None,
        "Worker processes for this queue alone.",
        "shared ones",
    ),
    Key("retry", "max_attempts", whole(1, _MANY), 3, "Tries of a run, the first one counted."),
    Key("retry", "backoff", DURATION, "1s", "Delay before the second try."),
    Key("retry", "factor", number(1, 1000), 2.0, "By how much each delay is longer than the last."),
    Key("retry", "max_backoff", DURATION, "1h", "The longest delay."),
    Key("retry", "jitter", number(0, 1), 0.1, "Share by which a delay varies, up or down."),
    Key(
        "limits",
        "payload",
        size(1, 16 * MIB),
        "1MiB",
        "Size of a payload, result, event or state value.",
    ),
    Key("limits", "run_steps", whole(1, _MANY), 10_000, "Steps of one run."),
    Key("limits", "run_bytes", size(1, 64 * GIB), "64MiB", "Size of all that one run records."),
    Key("limits", "connections", whole(1, 65_536), 256, "Clients at a time."),
    Key(
        "hooks",
        "on_failed",
        COMMAND,
        None,
        "Command for a run that failed; its JSON on stdin.",
        "none",
    ),
    Key(
        "hooks",
        "on_completed",
        COMMAND,
        None,
        "Command for a run that completed; its JSON on stdin.",
        "none",
    ),
)

IDLE: Final = frozenset(("project.watch",))
"""Keys that are valid and have no effect in this version: a file that was written for a later one
loads. Nothing offers them, and who sets one is told."""
_BY_PATH: Final = {key.path: key for key in KEYS}
SECTIONS: Final = tuple(dict.fromkeys(key.section for key in KEYS))

# --- The values ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ProjectSection:
    """`[project]`; `jobs` are paths from the project's root."""

    name: str
    jobs: tuple[str, ...]
    env_file: str | None
    data_dir: str | None
    watch: bool


@dataclass(frozen=True, slots=True)
class JournalSection:
    """`[journal]`; `durability` is `always` or `interval`."""

    durability: str
    segment_size_bytes: int
    retention_ms: int


@dataclass(frozen=True, slots=True)
class WorkersSection:
    """`[workers]`; None: the daemon chooses (`python`), or no bound."""

    processes: int
    slots: int
    grace_ms: int
    python: str | None
    inherit_env: tuple[str, ...]
    recycle_runs: int | None
    max_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class QueueSection:
    """`[queues.NAME]`; None: no bound of its own."""

    concurrency: int | None
    rate: Rate | None
    rate_burst: int
    key_concurrency: int | None
    paused: bool
    processes: int | None


@dataclass(frozen=True, slots=True)
class RetrySection:
    """`[retry]`: the project's defaults; jobs and starts may say otherwise."""

    max_attempts: int
    backoff_ms: int
    factor: float
    max_backoff_ms: int
    jitter: float


@dataclass(frozen=True, slots=True)
class LimitsSection:
    """`[limits]`."""

    payload_bytes: int
    run_steps: int
    run_bytes: int
    connections: int


@dataclass(frozen=True, slots=True)
class HooksSection:
    """`[hooks]`: argument lists."""

    on_failed: tuple[str, ...] | None
    on_completed: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of a project. `origins` says of each key that is not at its default where its
    value is from; `written` is the file as parsed."""

    root: Path
    data_dir: Path
    project: ProjectSection
    journal: JournalSection
    workers: WorkersSection
    queues: Mapping[str, QueueSection]
    retry: RetrySection
    limits: LimitsSection
    hooks: HooksSection
    origins: Mapping[str, str]

    def queue(self, name: str) -> QueueSection:
        """The settings of queue `name`: the defaults if the file does not speak of it."""
        return self.queues.get(name) or QueueSection(**_section(QUEUES, QUEUES, {}, ""))


def load_config(root: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of the project at `root`.

    Raises `BadConfiguration` that names the file, and the line (syntax) or the key.
    """
    path = Path(root, CONFIG_FILE)
    tables = parse_toml(read_config_text(path), path)
    for name in tables:
        if name not in SECTIONS and name != "queues":
            raise unknown_key(name, str(path))
    where = str(path)
    made = {
        name: _section(name, name, tables.get(name, {}), where)
        for name in SECTIONS
        if name != QUEUES
    }
    queues = _table(tables.get("queues", {}), "queues", where)
    made["project"]["name"] = made["project"]["name"] or Path(root).resolve().name or "project"
    made["workers"]["processes"] = made["workers"]["processes"] or cpu_count()
    env = os.environ if environ is None else environ
    return Config(
        root=Path(root),
        data_dir=data_dir_of(root, env),
        project=ProjectSection(**made["project"]),
        journal=JournalSection(**made["journal"]),
        workers=WorkersSection(**made["workers"]),
        queues=MappingProxyType(
            {
                _queue_name(name, where): QueueSection(
                    **_section(QUEUES, f"queues.{name}", table, where)
                )
                for name, table in queues.items()
            }
        ),
        retry=RetrySection(**made["retry"]),
        limits=LimitsSection(**made["limits"]),
        hooks=HooksSection(**made["hooks"]),
        origins=MappingProxyType(dict(_origins(tables, env))),
    )


def find_key(path: str) -> Key:
    """The key that `workers.slots` or `queues.emails.rate` names; raises `BadConfiguration` that
    names the nearest one."""
    section, _, name = path.rpartition(".")
    if section.startswith("queues."):
        section = QUEUES
    if key := _BY_PATH.get(f"{section}.{name}"):
        return key
    raise unknown_key(path, "")


def unknown_key(path: str, file: str) -> BadConfiguration:
    """The error for a key or section that does not exist, with the nearest one that does."""
    near = _nearest(path)
    return BadConfiguration(
        f"{file}{': ' if file else ''}{path}: there is no such key",
        hint=f"did you mean {near}?",
        file=file,
        key=path,
        near=near,
    )


def cpu_count() -> int:
    """The CPUs that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _nearest(path: str) -> str:
    """The same name in another section outranks a like name: the heading is forgotten more often
    than a key is misspelt."""
    section, _, name = path.rpartition(".")
    if section.startswith("queues"):
        section = QUEUES
    inside = {key.name: key.path for key in KEYS if key.section == section}
    if close := difflib.get_close_matches(name, inside, 1):
        return inside[close[0]]
    names = {key.name: key.path for key in KEYS}
    if not section and (close := difflib.get_close_matches(name, (*SECTIONS, "queues"), 1)):
        return close[0]
    if close := difflib.get_close_matches(name, names, 1):
        return names[close[0]]
    return difflib.get_close_matches(path, _BY_PATH, 1, cutoff=0.0)[0]


def _section(section: str, shown: str, table: object, file: str) -> dict[str, Any]:
    """The fields of a section, from its table in the file; `shown` is its name there."""
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
                hint=key.help,
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


def _queue_name(name: str, file: str) -> str:
    try:
        return check_name(name, "queue")
    except Usage as bad:
        raise BadConfiguration(
            f"{file}: queues: {bad.message}", hint=bad.hint, file=file, key="queues"
        ) from bad


def _origins(tables: Mapping[str, Any], env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Where each value that is no default is from."""
    for section, table in tables.items():
        if section == "queues":
            for queue, inner in table.items():
                yield from ((f"queues.{queue}.{name}", CONFIG_FILE) for name in inner)
        else:
            yield from ((f"{section}.{name}", CONFIG_FILE) for name in table)
    if env.get(DATA_DIR_VARIABLE):
        yield "project.data_dir", DATA_DIR_VARIABLE
