"""Imports point one way."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from architecture.source import (
    CLI,
    DAEMON,
    FOLDERS,
    PLUGIN,
    SDK,
    imports,
    read,
    refused,
)
from helpers.project import environment

TYPES = f"{SDK}.values.payload_types"
TIMEDELTAS = f"{SDK}.values.timedeltas"
MODELS = f"{SDK}.values.pydantic_models"
SCHEMA = f"{SDK}.values.pydantic_schema"
TICKS = f"{DAEMON}.core.decide.cron.ticks"


def test_every_package_is_read() -> None:
    """A folder that moved would make all else here true of nothing."""
    for package in FOLDERS:
        assert len(list(imports(package))) > 100


def test_sdk_imports_the_standard_library_alone() -> None:
    """It lives in other people's environments; what converts types is loaded when it is needed."""
    readers = (TYPES, TIMEDELTAS, MODELS, SCHEMA)
    others = (each for each in imports(SDK) if each.module not in (*readers, PLUGIN))
    assert refused(others, SDK, "annotationlib") == []  # of the standard library since 3.14
    models = ("pydantic", "pydantic_core")
    used = (("msgspec",), ("msgspec",), models, models)
    for module, libraries in zip(readers, used, strict=True):
        typed = list(imports(SDK, module))
        assert refused(iter(typed), SDK, *libraries) == []
        assert {each.late for each in typed if each.package in libraries} == {True}


def test_cli_and_daemon_never_import_each_other() -> None:
    """They meet at the socket."""
    assert [str(each) for each in imports(CLI) if each.package == DAEMON] == []
    assert [str(each) for each in imports(DAEMON) if each.package == CLI] == []


def test_sdk_imports_neither_of_the_others() -> None:
    """`stackshift_jobs ← stackshift_cli`, `stackshift_jobs ← stackshiftd`."""
    others = [each for each in imports(SDK) if each.module != PLUGIN]
    assert [str(each) for each in others if each.package in (CLI, DAEMON)] == []


def test_plugin_of_pytest_loads_the_daemon_when_a_test_asks_for_it() -> None:
    """The one exception of the SDK: it stands between users and the daemon's package for tests, and
    pytest loads it at every start."""
    found = list(imports(SDK, PLUGIN))
    assert refused(iter(found), SDK, "pytest", f"{DAEMON}.testing") == []
    at_once = {each.target for each in found if not each.late and not each.checked}
    assert {name for name in at_once if name.startswith((SDK, DAEMON, CLI))} <= {
        f"{SDK}.project.locate.CONFIG_FILE",
        f"{SDK}.project.locate.project_above",
    }
    assert any(each.package == DAEMON for each in found)
    users = [each for each in (*imports(SDK), *imports(CLI)) if each.module != PLUGIN]
    assert [str(each) for each in users if each.package == "pytest"] == []


def test_nothing_of_the_daemon_knows_its_package_for_tests() -> None:
    """Which itself needs no pytest: what it fails with are assertions."""
    testing = f"{DAEMON}.testing"
    others = [each for each in imports(DAEMON) if not each.module.startswith(testing)]
    assert [str(each) for each in others if each.target.startswith(testing)] == []
    assert refused(imports(DAEMON, testing), DAEMON, SDK, "msgspec") == []


def test_core_imports_values_and_msgspec_alone() -> None:
    """It decides; it does not act. Cron is arithmetic on times that are handed in."""
    core = f"{DAEMON}.core"
    others = (each for each in imports(DAEMON, core) if each.module != TICKS)
    assert refused(others, core, "msgspec", SDK) == []
    assert refused(imports(DAEMON, TICKS), core, "cronsim", SDK) == []


def test_fold_computes_no_ticks() -> None:
    """The zones of the world change between a run and its replay: only decisions look at them."""
    core = f"{DAEMON}.core"
    reached = {f"{core}.fold.fold", f"{core}.snapshot"}
    while True:
        more = {
            name
            for each in imports(DAEMON, core)
            if each.module in reached
            for name in (each.target, each.target.rpartition(".")[0])
            if name.startswith(f"{core}.")
        }
        if more <= reached:
            break
        reached |= more
    assert f"{core}.state.schedules" in reached
    assert not reached & {TICKS, f"{core}.decide.schedules", f"{core}.decide.decide"}
    found = [each for each in imports(DAEMON, core) if each.module != TICKS]
    assert [str(each) for each in found if each.package in ("zoneinfo", "cronsim")] == []


WORLD = frozenset(
    """
    time os io socket select selectors random secrets uuid asyncio threading multiprocessing
    subprocess pathlib shutil tempfile signal sqlite3 logging platform
    """.split()
)


def test_core_knows_no_clock_file_socket_or_chance() -> None:
    """Time, ids and randomness are handed in."""
    found = list(imports(DAEMON, f"{DAEMON}.core"))
    assert [str(each) for each in found if each.package in WORLD] == []
    for path in sorted((FOLDERS[DAEMON] / "core").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        called = {ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
        acts = {"open", "print", "input", "datetime.now", "datetime.utcnow", "date.today"}
        assert called.isdisjoint(acts), path.name


def test_journal_knows_records_of_the_core_and_no_more() -> None:
    """So that it can hold any of them."""
    journal = f"{DAEMON}.journal"
    allowed = (journal, f"{DAEMON}.core.records", "msgspec", SDK, "asyncpg")
    assert refused(imports(DAEMON, journal), *allowed) == []


def test_driver_of_the_database_is_loaded_only_where_there_is_one() -> None:
    """A journal in files pays nothing for the others."""
    code = "import sys, stackshiftd.app, stackshiftd.daemon, stackshiftd.journal.file_journal"
    others = ("asyncpg", "cryptography", "stackshiftd.journal.shared")
    shown = f"print([n for n in {others} if n in sys.modules])"
    command = [sys.executable, "-c", f"{code}; {shown}"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_shell_imports_core_journal_and_history() -> None:
    """And of the workers the frames that both speak, the files of the logs and of their code, the
    names that both check, the jobs that are built in, and how a secret is found and a server asked.
    """
    shell = f"{DAEMON}.shell"
    ours = (
        "core journal history worker.frames worker.host_frames worker.output.log_lines "
        "worker.output.log_file worker.code_files worker.exec_job worker.job_names "
        "worker.scripts.file_job worker.notices.job worker.notices.http worker.secrets"
    ).split()
    libraries = "msgspec fastjsonschema cronsim watchfiles cryptography".split()
    allowed = (shell, SDK, *(f"{DAEMON}.{name}" for name in ours), *libraries)
    assert refused(imports(DAEMON, shell), *allowed) == []


def test_keeper_starts_and_ends_workers_as_the_daemon_does() -> None:
    """It knows that part of the shell, the frames and the lease, and nothing of what a daemon
    decides."""
    keeper = f"{DAEMON}.keeper"
    ours = (
        "shell.workers.process shell.workers.programs worker.frames worker.host_frames worker.lease"
    ).split()
    allowed = (keeper, SDK, *(f"{DAEMON}.{name}" for name in ours), "msgspec", "platformdirs")
    assert refused(imports(DAEMON, keeper), *allowed) == []


@pytest.mark.parametrize("folder", ["core", "journal", "history", "shell", "keeper", "worker"])
def test_only_the_top_of_the_daemon_sees_all_of_it(folder: str) -> None:
    """What puts the parts together is imported by none of them."""
    tops = {
        f"{DAEMON}.{path.stem}" for path in FOLDERS[DAEMON].glob("*.py") if path.stem != "__init__"
    }
    found = imports(DAEMON, f"{DAEMON}.{folder}")
    assert [
        str(each) for each in found if any(f"{each.target}.".startswith(f"{top}.") for top in tops)
    ] == []


def test_reader_sees_imports_wherever_they_stand() -> None:
    """In functions, behind `if`, relative and by name: the judge must not be blind."""
    source = (
        "import os.path\n"
        "from . import sibling\n"
        "from ..core import state as s\n"
        "def f():\n    from random import choice\n    import_module('socket')\n"
        "if TYPE_CHECKING:\n    import typing\n"
    )
    found = read("stackshiftd.shell.engine", source)
    assert [(each.target, each.late, each.checked) for each in found] == [
        ("os.path", False, False),
        ("stackshiftd.shell.sibling", False, False),
        ("stackshiftd.core.state", False, False),
        ("random.choice", True, False),
        ("socket", True, False),
        ("typing", False, True),
    ]


PATCHED = ("json", "threading", "time")
"""Modules of whose functions jobs put others in the place."""
MAY_PATCH = (
    f"{DAEMON}.worker.loading.check",
    f"{DAEMON}.worker.lease",
    f"{DAEMON}.worker.output.thread_contexts",
    f"{SDK}.values.json_text",
)
"""They put in their own, take what there is, or fall back on it."""


def test_worker_binds_what_jobs_may_replace() -> None:
    """`json.loads = …` in a step is the next handler's to find, and not the worker's. Clocks are
    those of `values.clocks`: even a name that is bound to the function of `time` is replaced."""
    folders = [(DAEMON, f"{DAEMON}.worker")]
    folders += [(SDK, f"{SDK}.{name}") for name in ("handler", "programs", "values")]
    found = [each for package, under in folders for each in imports(package, under)]
    others = [each for each in found if each.module not in MAY_PATCH]
    assert [str(each) for each in others if each.target in PATCHED] == []
    read_clocks = [each for each in found if each.module != f"{SDK}.values.clocks"]
    clocks = ("time.monotonic", "time.time", "time.time_ns", "time.perf_counter")
    assert [str(each) for each in read_clocks if each.target in clocks] == []
