"""`stackshift.toml`: every default, and that nothing misspelt or absurd is accepted."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.project import config
from stackshift_jobs.project.config import KEYS, Config, find_key, load_config
from stackshift_jobs.project.settings import Rate, format_size, parse_rate, parse_size

CLASSES: dict[str, type[Any]] = {
    "project": config.ProjectSection,
    "journal": config.JournalSection,
    "cluster": config.ClusterSection,
    "workers": config.WorkersSection,
    config.QUEUES: config.QueueSection,
    config.HOSTS: config.HostSection,
    config.SCHEDULES: config.ScheduleSection,
    config.NOTIFY: config.NotifySection,
    "heartbeat": config.HeartbeatSection,
    "retry": config.RetrySection,
    "limits": config.LimitsSection,
    "hooks": config.HooksSection,
    "secrets": config.SecretsSection,
    "redact": config.RedactSection,
}
DEFAULTS: dict[str, Any] = {
    "project.name": "shop",
    "project.jobs": ("jobs",),
    "project.env_file": None,
    "project.data_dir": None,
    "project.watch": False,
    "journal.durability": "always",
    "journal.segment_size_bytes": 8 * 2**20,
    "journal.retention_ms": 30 * 86_400_000,
    "journal.url": None,
    "journal.lease_ms": 3000,
    "journal.patience_ms": 120_000,
    "cluster.host": None,
    "cluster.listen": ("0.0.0.0", 7433),
    "cluster.advertise": None,
    "cluster.lead": True,
    "cluster.lend": True,
    "workers.processes": config.cpu_count(),
    "workers.hosts": ("local",),
    "workers.slots": 16,
    "workers.grace_ms": 10_000,
    "workers.python": None,
    "workers.inherit_env": (),
    "workers.path": (
        *("~/.local/bin", *(["/opt/homebrew/bin"] if sys.platform == "darwin" else [])),
        *("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"),
    ),
    "workers.umask": 0o022,
    "workers.nice": 0,
    "workers.heartbeat_ms": 15_000,
    "workers.recycle_runs": None,
    "workers.max_memory_bytes": None,
    "queues.NAME.concurrency": None,
    "queues.NAME.rate": None,
    "queues.NAME.rate_burst": 1,
    "queues.NAME.key_concurrency": None,
    "queues.NAME.paused": False,
    "queues.NAME.processes": None,
    "queues.NAME.hosts": None,
    "hosts.NAME.command": None,
    "hosts.NAME.python": "python3",
    "hosts.NAME.code": "send",
    "hosts.NAME.send": None,
    "hosts.NAME.prepare": None,
    "notify.NAME.to": "ntfy://ntfy.sh/ops",
    "notify.NAME.command": None,
    "notify.NAME.on": ("failed", "late", "missing", "recovered", "daemon_stopped"),
    "notify.NAME.jobs": (),
    "notify.NAME.queues": (),
    "notify.NAME.token": None,
    "notify.NAME.sender": None,
    "notify.NAME.smtp": None,
    "notify.NAME.quiet_ms": 300_000,
    "notify.NAME.rate": parse_rate("20/h"),
    "notify.NAME.max_attempts": 20,
    "heartbeat.url": None,
    "heartbeat.period_ms": 60_000,
    "schedules.NAME.cron": "@daily",
    "schedules.NAME.job": "report",
    "schedules.NAME.command": None,
    "schedules.NAME.payload": None,
    "schedules.NAME.timezone": "UTC",
    "schedules.NAME.catch_up": "once",
    "schedules.NAME.catch_up_for_ms": None,
    "schedules.NAME.overlap": "skip",
    "schedules.NAME.jitter_ms": 0,
    "schedules.NAME.queue": None,
    "schedules.NAME.expect": None,
    "schedules.NAME.max_runtime_ms": None,
    "schedules.NAME.heartbeat": None,
    "retry.max_attempts": 3,
    "retry.backoff_ms": 1000,
    "retry.factor": 2.0,
    "retry.max_backoff_ms": 3_600_000,
    "retry.jitter": 0.1,
    "retry.on": (),
    "retry.not_on": (),
    "limits.payload_bytes": 2**20,
    "limits.run_steps": 10_000,
    "limits.run_bytes": 64 * 2**20,
    "limits.connections": 256,
    "hooks.on_failed": None,
    "hooks.on_completed": None,
    "secrets.env": ("*",),
    "secrets.files": (".", "/run/secrets"),
    "redact.payload": (),
}

NEEDED = {
    config.SCHEDULES: 'cron = "@daily"\njob = "report"\n',
    config.NOTIFY: 'to = "ntfy://ntfy.sh/ops"\n',
}
"""Keys without which a table cannot be."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty project called `shop`."""
    made = tmp_path.resolve() / "shop"
    made.mkdir()
    return made


def load(root: Path, text: str, environ: dict[str, str] | None = None) -> Config:
    """The configuration of the project at `root` whose `stackshift.toml` is `text`."""
    (root / "stackshift.toml").write_text(text, encoding="utf-8")
    return load_config(root, environ or {})


def field(loaded: Config, section: str, name: str) -> Any:
    """The value of a field; of a queue's or a host's, that of one the file does not mention."""
    if section == config.HOSTS:
        hosts = loaded.hosts or load(loaded.root, "[hosts.any]\n").hosts
        return getattr(hosts["any"], name)
    if section == config.SCHEDULES:
        written = "[schedules.any]\n" + NEEDED[section]
        schedules = loaded.schedules or load(loaded.root, written).schedules
        return getattr(schedules["any"], name)
    if section == config.NOTIFY:
        notify = loaded.notify or load(loaded.root, "[notify.any]\n" + NEEDED[section]).notify
        return getattr(notify["any"], name)
    part = loaded.queue("any") if section == config.QUEUES else getattr(loaded, section)
    return getattr(part, name)


def test_table_and_sections_agree() -> None:
    """Each key of the table has a field, and each field a key, so no list of keys leaves one
    out."""
    for section, cls in CLASSES.items():
        written = [key.field for key in KEYS if key.section == section]
        assert written == [f.name for f in dataclasses.fields(cls)]
    assert set(CLASSES) == {key.section for key in KEYS}
    assert {f"{key.section}.{key.field}" for key in KEYS} == set(DEFAULTS)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_empty_file_gives_each_default(root: Path, key: config.Key) -> None:
    """An empty `stackshift.toml` is a whole configuration."""
    expected = DEFAULTS[f"{key.section}.{key.field}"]
    assert field(load(root, ""), key.section, key.field) == expected


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.path)
def test_default_can_be_written_as_the_table_shows_it(root: Path, key: config.Key) -> None:
    """The printed default means the same when it is written in the file."""
    assert key.help.endswith(".")
    assert key.default_text
    if key.default is not None:
        section = key.section.replace("NAME", "any")
        needed = NEEDED.get(key.section, "")
        loaded = load(root, f"[{section}]\n{needed}{key.name} = {key.default_text}\n")
        assert field(loaded, key.section, key.field) == DEFAULTS[f"{key.section}.{key.field}"]


def test_every_key_is_accepted(root: Path) -> None:
    """With all units, commands as strings and as lists, and queues of any name."""
    loaded = load(
        root,
        """
        [project]
        name = "web"
        jobs = ["jobs", "more/media.py"]
        env_file = ".env"
        data_dir = "state"
        watch = true
        [journal]
        durability = "interval"
        segment_size = 1048576
        retention = "1d12h"
        lease = "5s"
        patience = "10m"
        [workers]
        processes = 3
        hosts = ["local", "build-2"]
        slots = 1
        grace = 2.5
        python = "py/bin/python"
        inherit_env = ["*"]
        path = "bin:/usr/bin"
        umask = "027"
        nice = 5
        heartbeat = "1m"
        recycle_runs = 100
        max_memory = "1GiB"
        [queues."e mail"]
        concurrency = 4
        rate = "100/m"
        rate_burst = 10
        key_concurrency = 1
        paused = true
        processes = 2
        [queues.slow]
        rate = "5/10s"
        [queues.gpu]
        hosts = ["gpu-1", "me@gpu.example.org"]
        [hosts.gpu-1]
        command = "docker run -i --rm shop-gpu"
        python = "/opt/shop/bin/python"
        code = "/srv/shop"
        send = ["jobs", "lib"]
        prepare = ["uv", "sync", "--frozen"]
        [retry]
        max_attempts = 1
        backoff = "250ms"
        factor = 1
        max_backoff = "2h"
        jitter = 0
        [limits]
        payload = "16MiB"
        run_steps = 5
        run_bytes = "1GB"
        connections = 2
        [hooks]
        on_failed = "notify --to 'the team'"
        on_completed = ["log", "it is done"]
        """,
    )
    assert loaded.data_dir == root / "state"
    jobs = ("jobs", "more/media.py")
    assert dataclasses.astuple(loaded.project) == ("web", jobs, ".env", "state", True)
    journal = ("interval", 2**20, 36 * 3_600_000, None, 5000, 600_000)
    assert dataclasses.astuple(loaded.journal) == journal
    assert dataclasses.astuple(loaded.workers) == (
        *(3, ("local", "build-2"), 1, 2500, 60_000),
        *("py/bin/python", ("*",), ("bin", "/usr/bin"), 0o027, 5, 100, 2**30),
    )
    assert loaded.queues["e mail"] == config.QueueSection(
        4, Rate(100, 60_000), 10, 1, True, 2, None
    )
    assert loaded.queues["e mail"].places == (("local", 2),)
    assert loaded.queues["slow"].places == ()
    assert loaded.queues["gpu"].places == (("gpu-1", 1), ("me@gpu.example.org", 1))
    assert list(loaded.hosts) == ["build-2", "gpu-1", "me@gpu.example.org"]
    assert loaded.hosts["gpu-1"] == config.HostSection(
        *(("docker", "run", "-i", "--rm", "shop-gpu"), "/opt/shop/bin/python", "/srv/shop"),
        *(("jobs", "lib"), ("uv", "sync", "--frozen")),
    )
    assert loaded.hosts["build-2"] == config.HostSection(None, "python3", "send", None, None)
    assert loaded.queues["slow"].rate == Rate(5, 10_000)
    assert loaded.queue("never named") == config.QueueSection(
        None, None, 1, None, False, None, None
    )
    assert loaded.retry == config.RetrySection(1, 250, 1.0, 7_200_000, 0.0, (), ())
    assert loaded.limits == config.LimitsSection(16 * 2**20, 5, 10**9, 2)
    assert loaded.hooks == config.HooksSection(
        ("notify", "--to", "the team"), ("log", "it is done")
    )


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("[workers]\nslot = 1", "workers.slot", "workers.slots"),
        ("[queues.emails]\nconcurency = 1", "queues.emails.concurency", "queues.NAME.concurrency"),
        ("[project]\nslots = 1", "project.slots", "workers.slots"),
        ("[worker]\nslots = 1", "worker", "workers"),
        ("nam = 'x'", "nam", "project.name"),
        ("[hosts.a]\ncomand = 'x'", "hosts.a.comand", "hosts.NAME.command"),
        ("[hooks]\nonfailed = 'x'", "hooks.onfailed", "hooks.on_failed"),
        ("[retry]\nmax_retries = 1", "retry.max_retries", "retry.max_attempts"),
    ],
)
def test_unknown_key_names_file_key_and_the_nearest(
    root: Path, text: str, key: str, near: str
) -> None:
    """A misspelt setting is never ignored silently."""
    with pytest.raises(BadConfiguration) as refused:
        load(root, text)
    assert refused.value.message.startswith(f"{root}/stackshift.toml: {key}: ")
    assert refused.value.fields["near"] == near
    assert near in refused.value.hint


def test_name_unlike_any_key_still_suggests_one(root: Path) -> None:
    """The error always names the nearest key, however different it is."""
    with pytest.raises(BadConfiguration) as refused:
        load(root, "[limits]\nqqqq = 1")
    assert refused.value.fields["near"] in {key.path for key in KEYS}


# What a key is refused with, as it stands in the file.
BAD_VALUES = r"""
project.name: '' | 3 | "a\u001bb"
project.jobs: 'jobs' | [1] | ['/etc'] | ['../x'] | ['.']
project.watch: 1 | 'yes'
project.env_file: true
journal.durability: 'never' | ['always']
journal.segment_size: '1TB' | 1 | -1 | true | 1e6
journal.url: 'mysql://db/shop' | 'db' | 3
journal.lease: '500ms' | '2m'
journal.patience: '1s' | '2h'
journal.retention: '-1d' | '11 years' | true | -5 | nan | inf | '5000d' | []
cluster.host: '' | 'a b' | 3 | '-x'
cluster.listen: '7433' | 'a:' | ':1' | 'a:65536' | '::1:80' | '[a]:1' | 7433
cluster.advertise: 'db' | true
cluster.lead: 'no'
workers.processes: 0 | 1025 | '4'
workers.hosts: 'local' | ['a', 'a'] | ['-oProxyCommand=x'] | ['a b'] | ['']
workers.slots: 1.5 | true
workers.inherit_env: '*'
workers.path: [] | '' | '/bin:' | ['a:b'] | [''] | 3
workers.umask: 22 | 0o022 | '22x' | '0700' | '8' | '7' | true
workers.nice: -21 | 20 | '5' | 0.5
workers.heartbeat: '500ms' | '2h' | 0 | true
workers.max_memory: '1MiB'
workers.recycle_runs: 0
workers.python: ''
queues.a.rate: '100' | '0/m' | '1/0ms' | 5 | '-1/m' | '1/y'
queues.a.concurrency: 0
queues.a.rate_burst: 0
queues.a.paused: 'no'
retry.max_attempts: 0
retry.factor: 0.5 | '2' | nan
retry.jitter: 1.1 | false
limits.payload: '17MiB' | 16777217 | 0
limits.run_steps: 0
limits.connections: 0
hooks.on_failed: '' | [] | "'open" | 3
secrets.env: '*' | ['']
redact.payload: 'a.b' | ['a..b'] | ['a.'] | ['a[0]'] | ['[]x'] | ['.a']
"""
BAD_LINES = [
    f"{key} = {value}"
    for key, _, values in (row.partition(": ") for row in BAD_VALUES.strip().splitlines())
    for value in values.split(" | ")
]


@pytest.mark.parametrize("line", BAD_LINES)
def test_invalid_value_names_file_and_key(root: Path, line: str) -> None:
    """Of another type or out of its range: refused, never bent into shape."""
    key = line.partition(" = ")[0]
    with pytest.raises(BadConfiguration) as refused:
        load(root, line)
    assert refused.value.fields["key"] == key
    assert refused.value.message.startswith(f"{root}/stackshift.toml: {key}: ")
    assert refused.value.exit_status == 78


@pytest.mark.parametrize(
    "text", ["queues = 3", "[queues]\nemails = 3", "workers = []", '[queues.""]\npaused = true']
)
def test_section_that_is_not_a_table_is_refused(root: Path, text: str) -> None:
    """The heading was forgotten, or a queue has no name."""
    with pytest.raises(BadConfiguration, match=r"stackshift\.toml: "):
        load(root, text)


def test_syntax_error_names_file_and_line(root: Path) -> None:
    """So an editor can jump there."""
    with pytest.raises(BadConfiguration, match=r"stackshift\.toml:3: ") as refused:
        load(root, "[project]\n\nname = \n")
    assert refused.value.fields["line"] == 3


def test_byte_order_mark_is_no_part_of_the_file(root: Path) -> None:
    """Editors write one; the first line counts, and an error names the right one."""
    (root / "stackshift.toml").write_bytes(b'\xef\xbb\xbf[project]\nname = "marked"\n')
    assert load_config(root, {}).project.name == "marked"
    (root / "stackshift.toml").write_bytes(b'\xef\xbb\xbf[project]\nname = "\xff"\n')
    with pytest.raises(BadConfiguration, match=r"stackshift\.toml:2: not valid UTF-8"):
        load_config(root, {})


def test_missing_file_is_a_bad_configuration(root: Path) -> None:
    """A project that was moved away is not an internal error."""
    with pytest.raises(BadConfiguration, match=r"stackshift\.toml"):
        load_config(root, {})


def test_origins_say_where_each_value_comes_from(root: Path) -> None:
    """A key that is not listed is at its default; the environment outranks the file."""
    text = "[project]\ndata_dir = 'a'\n[workers]\nslots = 2\n[queues.q]\npaused = false\n"
    loaded = load(root, text, {"STACKSHIFT_DATA_DIR": "b"})
    assert loaded.data_dir == root / "b"
    assert dict(loaded.origins) == {
        "project.data_dir": "STACKSHIFT_DATA_DIR",
        "workers.slots": "stackshift.toml",
        "queues.q.paused": "stackshift.toml",
    }


def test_configuration_cannot_be_changed(root: Path) -> None:
    """Whoever has it can rely on it."""
    loaded = load(root, "[queues.q]\n")
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.workers.slots = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        loaded.queues["x"] = loaded.queues["q"]  # type: ignore[index]


def test_key_is_found_by_its_path() -> None:
    """The path is that of `config get` and `config set`, with the name of the queue."""
    assert find_key("workers.slots").default == 16
    assert find_key("queues.e.mails.rate").path == "queues.NAME.rate"
    with pytest.raises(BadConfiguration, match="no such key") as refused:
        find_key("workers.slot")
    assert "workers.slots" in refused.value.hint


def test_processes_default_to_the_cpus_that_may_be_used() -> None:
    """A container limited to one CPU gets one process."""
    count = os.cpu_count() or 1
    assert 1 <= config.cpu_count() <= count


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (1000, "1000B"), (2**10, "1KiB"), (3 * 2**20, "3MiB")]
)
def test_size_is_written_as_it_is_read(size: int, text: str) -> None:
    """It is written with the largest unit that is exact."""
    assert format_size(size) == text
    assert parse_size(text) == size


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ('job = "a"', "schedules.x: no time is given"),
        ('cron = "@daily"', "schedules.x: one of job and command is needed"),
        ('cron = "@daily"\njob = "a"\ncommand = "b"', "schedules.x: one of job and command"),
        ('cron = "@daily"\ncommand = "b"\npayload = {}', "schedules.x: a command has no payload"),
        ('cron = "@daily"\njob = "a"\noverlap = "no"', "schedules.x.overlap: 'no' is not"),
        ('cron = "@daily"\njob = "a"\npayload = [1]', "schedules.x.payload: [1] is not a table"),
        ('cron = "@daily"\njob = "a"\npayload = {a = nan}', "schedules.x.payload: "),
        ('cron = "@daily"\njob = "a"\njitter = "2d"', "schedules.x.jitter: '2d' is not"),
        (
            'cron = "@daily"\njob = "a"\ncatch_up = "skip"\ncatch_up_for = "1h"',
            "schedules.x: catch_up_for is given, but nothing is caught up",
        ),
        ('cron = "@daily"\njob = "a"\ncrom = 1', "schedules.x.crom: no such key"),
    ],
)
def test_schedule_that_cannot_be_is_refused_with_its_name(
    root: Path, table: str, told: str
) -> None:
    """In the words of the file."""
    with pytest.raises(BadConfiguration) as refused:
        load(root, f"[schedules.x]\n{table}\n")
    assert told in refused.value.message
