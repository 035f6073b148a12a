"""Which project a program means: the order of precedence, and the error if there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.project.locate import Project, data_dir_of, find_project

REPOSITORY = Path(__file__).resolve().parents[3]


def make(path: Path, text: str = "") -> Path:
    """Create a project at `path`; returns its resolved path."""
    path.mkdir(parents=True)
    (path / "stackshift.toml").write_text(text)
    return path.resolve()


def test_each_way_of_naming_a_project_outranks_the_next(tmp_path: Path) -> None:
    """The argument, then the environment, then the nearest parent, then the user's default."""
    asked, env, near, default = (make(tmp_path / name) for name in ("a", "e", "n", "d"))
    inside = near / "x" / "y"
    inside.mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    environ = {"STACKSHIFT_PROJECT": str(env)}

    def find(explicit: str | None, cwd: Path, environ: dict[str, str]) -> Path:
        return find_project(explicit, cwd=cwd, environ=environ, default_project=str(default)).root

    assert find(str(asked), inside, environ) == asked
    assert find(None, inside, environ) == env
    assert find(None, inside, {}) == near
    assert find(None, inside, {"STACKSHIFT_PROJECT": ""}) == near
    assert find(None, outside, {}) == default


def test_nearest_parent_outranks_one_further_up(tmp_path: Path) -> None:
    """Inside a nested project, that project is used."""
    make(tmp_path / "outer")
    inner = make(tmp_path / "outer" / "inner")
    assert find_project(cwd=inner, environ={}).root == inner


def test_relative_path_is_relative_to_the_working_directory(tmp_path: Path) -> None:
    """`-C ../other` means what it says."""
    other = make(tmp_path / "other")
    here = make(tmp_path / "here")
    assert find_project("../other", cwd=here, environ={}).root == other


def test_users_default_is_not_looked_up_unless_it_is_needed(tmp_path: Path) -> None:
    """Reading the user's configuration takes too long for a short command."""

    def never() -> str:
        raise AssertionError("looked up")

    here = make(tmp_path / "here")
    assert find_project(cwd=here, environ={}, default_project=never).root == here


def test_default_can_be_a_function(tmp_path: Path) -> None:
    """It is called if nothing else gives a project."""
    there = make(tmp_path / "there")
    empty = tmp_path / "empty"
    empty.mkdir()
    found = find_project(cwd=empty, environ={}, default_project=lambda: str(there))
    assert found.root == there


@pytest.mark.parametrize("by", ["explicit", "environment", "default"])
def test_named_directory_that_is_not_a_project_is_refused(tmp_path: Path, by: str) -> None:
    """Its parents are not searched: no other project than the named one is ever used."""
    make(tmp_path / "p")
    inside = tmp_path / "p" / "inside"
    inside.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    named = str(inside)
    with pytest.raises(BadConfiguration) as refused:
        find_project(
            named if by == "explicit" else None,
            cwd=elsewhere,
            environ={"STACKSHIFT_PROJECT": named} if by == "environment" else {},
            default_project=named if by == "default" else None,
        )
    assert str(inside) in refused.value.message
    assert refused.value.hint.startswith("stackshift init")


def test_file_or_folder_of_a_project_is_not_the_project(tmp_path: Path) -> None:
    """The hint names the project that was probably meant, in quotes where a shell needs them."""
    shop = tmp_path / "my shop"
    (shop / "jobs").mkdir(parents=True)
    (shop / "stackshift.toml").touch()
    jobs = shop / "jobs"
    for named, why, hint in (
        (shop / "stackshift.toml", "is not a directory", ""),
        (jobs, "has no stackshift.toml", f"stackshift init '{jobs}'; "),
    ):
        with pytest.raises(BadConfiguration) as refused:
            find_project(str(named), environ={})
        assert refused.value.message == f"{named} (the given project) {why}"
        assert refused.value.hint == f"{hint}the project above it is '{shop}'"
    with pytest.raises(BadConfiguration) as refused:
        find_project(str(tmp_path / "new shop"), environ={})
    assert refused.value.hint == f"stackshift init '{tmp_path}/new shop'"


def test_data_directory_behind_a_link_is_not_made(tmp_path: Path) -> None:
    """The disk it is on may not be mounted: a new journal there would know no run and no key."""
    (tmp_path / "stackshift.toml").touch()
    disk = tmp_path / "my disk"
    (tmp_path / ".stackshift").symlink_to(disk)
    with pytest.raises(BadConfiguration, match=f"is a link to {disk}, which does not exist"):
        find_project(str(tmp_path), environ={})
    disk.mkdir(mode=0o700)
    assert find_project(str(tmp_path), environ={}).data_dir == disk
    disk.rmdir()
    elsewhere = {"STACKSHIFT_DATA_DIR": str(tmp_path / "new")}
    assert find_project(str(tmp_path), environ=elsewhere).data_dir == tmp_path / "new"


def test_no_project_at_all_says_how_to_make_one(tmp_path: Path) -> None:
    """The exit status is 78, and the hint is `stackshift init`."""
    with pytest.raises(BadConfiguration) as refused:
        find_project(cwd=tmp_path, environ={}, default_project=lambda: None)
    assert refused.value.exit_status == 78
    assert refused.value.hint.startswith("stackshift init")


def test_data_directory_is_from_environment_then_file_then_default(tmp_path: Path) -> None:
    """A relative path is relative to the project, so cron and a shell mean the same place."""
    written = make(tmp_path / "w", '[project]\ndata_dir = "state"\n')
    silent = make(tmp_path / "s", "# data_dir = 'not this'\n[queues.data_dir]\n")
    absolute = str(tmp_path.resolve() / "abs")
    assert find_project(cwd=written, environ={}).data_dir == written / "state"
    assert find_project(cwd=silent, environ={}).data_dir == silent / ".stackshift"
    assert data_dir_of(written, {"STACKSHIFT_DATA_DIR": absolute}) == Path(absolute)
    assert data_dir_of(written, {"STACKSHIFT_DATA_DIR": "rel"}) == written / "rel"
    assert data_dir_of(written, {"STACKSHIFT_DATA_DIR": ""}) == written / "state"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[project]\ndata_dir = "x"\nname =\n', 3),
        ('data_dir = """\n\nnever closed', 3),
        ("# data_dir\r\n[project]\r\ndata_dir = oops\r\n", 3),
    ],
)
def test_syntax_error_names_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    """Wherever the parser stops, also at the end of the file."""
    root = tmp_path / "p"
    root.mkdir()
    (root / "stackshift.toml").write_bytes(text.encode())
    with pytest.raises(BadConfiguration) as refused:
        data_dir_of(root, {})
    assert refused.value.message.startswith(f"{root}/stackshift.toml:{line}: ")


@pytest.mark.parametrize("value", ["3", '""', "[1]", '"a\\u0000b"'])
def test_data_directory_that_is_not_a_path_is_refused(tmp_path: Path, value: str) -> None:
    """It is neither converted to text nor silently replaced by the default."""
    root = make(tmp_path / "p", f"[project]\ndata_dir = {value}\n")
    with pytest.raises(BadConfiguration):
        data_dir_of(root, {})


def test_file_that_is_not_utf_8_names_the_line(tmp_path: Path) -> None:
    """It is the line of the first byte that cannot be decoded."""
    root = make(tmp_path / "p")
    (root / "stackshift.toml").write_bytes(b"# fine\n# \xff\n")
    with pytest.raises(BadConfiguration, match=r"stackshift\.toml:2: not valid UTF-8"):
        data_dir_of(root, {})


@pytest.mark.parametrize("name", ["circle", "~no-such-user-here/p", "a\0b"])
def test_path_that_cannot_be_a_directory_is_refused(tmp_path: Path, name: str) -> None:
    """A loop of links, the home of an unknown user or a NUL is a mistake, not a crash."""
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(BadConfiguration, match="is not a usable path"):
        find_project(name, cwd=tmp_path, environ={})


def test_leading_tilde_is_the_home_and_one_in_a_name_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shell expands `~/p` in a setting or a variable; `./~` is a name like any other."""
    at_home, here = make(tmp_path / "home" / "p"), make(tmp_path / "here" / "~")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert find_project(environ={"STACKSHIFT_PROJECT": "~/p"}).root == at_home
    assert find_project("./~", cwd=here.parent, environ={}).root == here


def test_parent_above_a_link_is_the_real_one(tmp_path: Path) -> None:
    """`..` after a link leads where the system goes, not where the text seems to lead."""
    real = make(tmp_path / "real")
    (real / "inside").mkdir()
    make(tmp_path / "other")
    (tmp_path / "other" / "link").symlink_to(real / "inside")
    assert find_project("link/..", cwd=tmp_path / "other", environ={}).root == real
    assert data_dir_of(tmp_path / "other" / "link" / "..", {}) == real / ".stackshift"


def test_unreadable_directory_is_not_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unreadable directory may be the project that is meant, not one further up."""
    make(tmp_path / "outer")
    inner = make(tmp_path / "outer" / "inner")
    stat = os.stat

    def forbidden(path: Any, **options: Any) -> os.stat_result:
        if path == str(inner / "stackshift.toml"):
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", forbidden)
        with pytest.raises(BadConfiguration, match=r"inner/stackshift\.toml: Permission denied"):
            find_project(cwd=inner, environ={})


def test_project_is_a_value(tmp_path: Path) -> None:
    """The same directories, as paths or as text, are equal projects."""
    project = Project(tmp_path, tmp_path / "d")
    same = Project(str(tmp_path), f"{tmp_path}/d")
    assert project == same != Project(tmp_path, tmp_path / "e")
    assert len({project, same}) == 1
    assert (project.root, project.data_dir) == (tmp_path, tmp_path / "d")
    assert (project.root_text, project.data_dir_text) == (str(tmp_path), f"{tmp_path}/d")


def test_short_commands_import_little(tmp_path: Path) -> None:
    """Getting from a project to its daemon imports nothing that would slow down a shell loop."""
    make(tmp_path / "p", "[workers]\nslots = 4\n")
    heavy = [
        "asyncio",
        "contextlib",
        "dataclasses",
        "inspect",
        "tomllib",
        "hashlib",
        "threading",
        "logging",
        "pathlib",
        "typing",
        "stackshift_jobs.values.strict_json",
    ]
    # The packages without their `__init__`, which are loaded for all programs and are tested alone.
    code = (
        "import sys\n"
        "for name in ('stackshift_jobs', 'stackshift_cli'):\n"
        "    sys.modules[name] = type(sys)(name)\n"
        f"    sys.modules[name].__path__ = [{str(REPOSITORY)!r} + '/' + name]\n"
        "from stackshift_cli.daemon.connection import Connection\n"
        "from stackshift_jobs import errors\n"
        "from stackshift_jobs.project import locate\n"
        "from stackshift_jobs.wire import jsonrpc\n"
        "found = locate.find_project()\n"
        "jsonrpc.encode_params({'job': 'j', 'payload': {'a': [1, 2.5, None, 'x']}})\n"
        "try:\n"
        "    Connection.open(found.data_dir_text)\n"
        "except errors.DaemonUnavailable as bad:\n"
        f"    print(bad.fields['reason'], [m for m in {heavy!r} if m in sys.modules])\n"
    )
    # Without site: an editable install may itself import what is looked for.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=tmp_path / "p",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "not_running []"


@pytest.mark.parametrize("data_dir", [None, os.fsdecode(b"/tmp/caf\xe9")])
def test_path_that_is_not_utf8_is_refused(tmp_path: Path, data_dir: str | None) -> None:
    """`jobs check` was content with it, and the daemon ended before it was ready."""
    name = "shop" if data_dir else os.fsdecode(b"caf\xe9")
    root = make(tmp_path / name)
    environ = {"STACKSHIFT_DATA_DIR": data_dir} if data_dir else {}
    with pytest.raises(BadConfiguration, match=r"caf\\udce9.* is not UTF-8 text") as refused:
        find_project(str(root), environ=environ)
    refused.value.message.encode()
