"""Which project a program means, and where its data is.

Owns the order of precedence: an explicit argument, `STACKSHIFT_PROJECT`, the nearest parent with a
`stackshift.toml`, the user's default. It never creates anything and never talks to a daemon. What
other users could have written is refused before it is read (see `trust`). Every command uses it, so
it reads one small file, parses that only if `data_dir` stands in it outside of a comment, and
handles paths as text: `pathlib` takes 5 ms to load.
"""

from __future__ import annotations

# ruff: noqa: PTH109, PTH111, PTH116, PTH118, PTH120 - see above
import errno
import os
import stat

from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.project import trust
from stackshift_jobs.project.toml import parse_toml, read_config_text

TYPE_CHECKING = False  # See `errors`: loading `typing` takes too long here.
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Final

CONFIG_FILE: Final = "stackshift.toml"
DEFAULT_DATA_DIR: Final = ".stackshift"
PROJECT_VARIABLE: Final = "STACKSHIFT_PROJECT"
DATA_DIR_VARIABLE: Final = "STACKSHIFT_DATA_DIR"


class NoProject(BadConfiguration):
    """Nothing says which project is meant."""


class Project:
    """A directory that contains `stackshift.toml`, and its data directory. Both are absolute, as
    paths and (`_text`) as text for code that cannot wait for `pathlib`."""

    __slots__ = ("data_dir_text", "root_text")

    def __init__(self, root: str | os.PathLike[str], data_dir: str | os.PathLike[str]) -> None:
        self.root_text = os.fspath(root)
        self.data_dir_text = os.fspath(data_dir)

    def __repr__(self) -> str:
        return f"Project({self.root_text!r}, {self.data_dir_text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Project) and self._places() == other._places()

    def __hash__(self) -> int:
        return hash(self._places())

    def _places(self) -> tuple[str, str]:
        return self.root_text, self.data_dir_text

    @property
    def address(self) -> str:
        """What names it, whatever the working directory is: for `-C`."""
        return self.root_text

    @property
    def root(self) -> Path:
        """The directory that contains `stackshift.toml`."""
        from pathlib import Path

        return Path(self.root_text)

    @property
    def data_dir(self) -> Path:
        """The directory of the journal, the socket and the logs."""
        from pathlib import Path

        return Path(self.data_dir_text)

    @property
    def config_file(self) -> Path:
        """The project's `stackshift.toml`."""
        return self.root / CONFIG_FILE


class FarProject(Project):
    """The project at `ssh://[USER@]HOST[:PORT]/DIRECTORY`, on another machine.

    Its daemon is talked to through ssh (`wire.ssh`). Its files are there, so whatever needs them is
    refused with the command to be given there.
    """

    __slots__ = ("directory", "host", "port")

    def __init__(self, url: str) -> None:
        """Raises `BadConfiguration` if `url` is no such address."""
        import re

        name = r"[^\s@/:-][^\s@/:]*"
        found = re.fullmatch(rf"ssh://((?:{name}@)?{name})(?::([0-9]{{1,5}}))?(/.+)", url)
        if found is None:
            raise BadConfiguration(
                f"{url} is not the address of a project", hint="write ssh://HOST/srv/shop"
            )
        self.host, self.port, path = found[1], found[2], found[3]
        self.directory = path[1:] if path.startswith("/~/") else path
        # Paths in tracebacks are those of the machine where the project is.
        super().__init__(self.directory, url)

    @property
    def address(self) -> str:
        """Its URL."""
        return self.data_dir_text

    @property
    def root(self) -> Path:
        """Not here. Raises `BadConfiguration`."""
        raise self._elsewhere()

    @property
    def data_dir(self) -> Path:
        """Not here. Raises `BadConfiguration`."""
        raise self._elsewhere()

    @property
    def config_file(self) -> Path:
        """Not here. Raises `BadConfiguration`."""
        raise self._elsewhere()

    def _elsewhere(self) -> BadConfiguration:
        port = f"-p {self.port} " if self.port else ""
        return BadConfiguration(
            f"this needs the files of the project, which are on {self.host}",
            hint=f"ssh {port}{self.host} stackshift -C {self.directory} …",
        )


def find_project(
    explicit: str | os.PathLike[str] | None = None,
    *,
    cwd: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] | None = None,
    default_project: Callable[[], str | None] | str | None = None,
) -> Project:
    """The project that a program means: the first that is given by one of

    `explicit`, `STACKSHIFT_PROJECT`, the nearest of `cwd` and its parents that contains
    `stackshift.toml`, `default_project` (a function is called only if it is needed). Each but the
    third may be `ssh://HOST/DIRECTORY`: then it is a `FarProject`.

    Raises `NoProject` if none gives one, and `BadConfiguration` if the directory given is not a
    project, or if other users could change it.
    """
    env = os.environ if environ is None else environ
    here = None if cwd is None else _absolute(".", os.fspath(cwd))
    if explicit is not None:
        return _named(os.fspath(explicit), here, "the given project", env)
    if directory := env.get(PROJECT_VARIABLE):
        return _named(directory, here, PROJECT_VARIABLE, env)
    here = here or _absolute(".", working_directory())
    nearest = project_above(here)
    if nearest is not None:
        return _own(nearest, env)
    fallback = default_project() if callable(default_project) else default_project
    if fallback:
        return _named(fallback, here, "default_project in the user's configuration", env)
    raise NoProject(
        f"no {CONFIG_FILE} in {here} or any directory above it",
        hint="stackshift init, or name a project with -C DIR or STACKSHIFT_PROJECT",
    )


def project_above(directory: str) -> str | None:
    """The nearest of `directory` and its parents that is a project; None if none is."""
    while not _is_project(directory):
        above = os.path.dirname(directory)
        if above == directory:
            return None
        directory = above
    return directory


def data_dir_of(root: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Path:
    """The data directory of the project at `root`: `STACKSHIFT_DATA_DIR`, else `[project]
    data_dir`, else `.stackshift`. A relative path is relative to the root, not to the working
    directory.

    Raises `BadConfiguration` for a `stackshift.toml` that cannot be read.
    """
    from pathlib import Path

    return Path(_data_dir(os.fspath(root), os.environ if environ is None else environ))


def working_directory() -> str:
    """The working directory; raises `BadConfiguration` if it was removed. What is named by an
    absolute path does not need it."""
    try:
        return os.getcwd()
    except OSError as bad:
        raise BadConfiguration(
            f"the working directory cannot be used: {bad.strerror}",
            hint="cd to another, or name the project by an absolute path: -C /srv/shop",
        ) from bad


def check_path_text(path: str) -> None:
    """Raise `BadConfiguration` unless `path` is UTF-8 text: it stands in messages between daemon,
    workers and clients, and in what is recorded."""
    try:
        path.encode()
    except UnicodeEncodeError:
        from stackshift_jobs.values.text import readable

        raise BadConfiguration(
            f"the path {readable(path)} is not UTF-8 text",
            hint="rename the directory, or use another",
        ) from None


def _absolute(written: str, base: str | None) -> str:
    """The canonical absolute path of the directory `written`, which may be relative to `base`, or
    to the working directory if that is None."""
    expanded = os.path.expanduser(written)
    if expanded.startswith("~"):
        raise BadConfiguration(f"{written!r} is not a usable path: no such user")
    if base is None and not expanded.startswith("/"):
        base = working_directory()
    try:
        path = os.path.realpath(os.path.join(base or "/", expanded))
        os.stat(path)
    except ValueError as bad:  # a NUL
        raise BadConfiguration(f"{written!r} is not a usable path: {bad}") from bad
    except OSError as bad:
        # It need not exist yet, but a loop of links never will.
        if bad.errno == errno.ELOOP:
            raise BadConfiguration(f"{written!r} is not a usable path: {bad.strerror}") from bad
    return path


def _is_project(directory: str) -> bool:
    """Does `directory` contain a `stackshift.toml`? Raises `BadConfiguration` if we may not look at
    it: skipping it could silently select another project further up."""
    path = os.path.join(directory, CONFIG_FILE)
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as bad:
        if bad.errno == errno.ELOOP:
            return False
        raise BadConfiguration(f"{path}: {bad.strerror}", file=path) from bad


def _named(directory: str, here: str | None, source: str, env: Mapping[str, str]) -> Project:
    """The project in `directory`, whose parents are not searched; `source` says who names it."""
    if directory.startswith("ssh://"):
        return FarProject(directory)
    root = _absolute(directory, here)
    if not _is_project(root):
        raise _no_project(root, source)
    return _own(root, env)


def _no_project(root: str, source: str) -> BadConfiguration:
    from pathlib import Path
    from shlex import quote

    is_file = Path(root).is_file()
    why = "is not a directory" if is_file else f"has no {CONFIG_FILE}"
    above = project_above(os.path.dirname(root))
    hints = [] if is_file else [f"stackshift init {quote(root)}"]
    if above is not None:
        hints.append(f"the project above it is {quote(above)}")
    elif is_file:
        hints.append(f"name the directory that has the {CONFIG_FILE}")
    return BadConfiguration(f"{root} ({source}) {why}", hint="; ".join(hints))


def _own(root: str, env: Mapping[str, str]) -> Project:
    """The project in `root`. A project further up is not looked for if this one is refused: which
    one is meant must not depend on what others do."""
    trust.check_project(root, CONFIG_FILE)
    data_dir = _data_dir(root, env)
    trust.check_data_dir(data_dir)
    check_path_text(root)
    check_path_text(data_dir)
    return Project(root, data_dir)


def _data_dir(root: str, env: Mapping[str, str]) -> str:
    """See `data_dir_of`."""
    chosen = env.get(DATA_DIR_VARIABLE) or _written_data_dir(root) or DEFAULT_DATA_DIR
    path = _absolute(chosen, root)
    link = os.path.join(root, chosen)
    if not os.access(path, os.F_OK) and _is_link(link):
        # A new journal would know nothing of the runs on a disk that is not mounted.
        from shlex import quote

        raise BadConfiguration(
            f"the data directory {link} is a link to {path}, which does not exist",
            hint=f"mount the disk it is on, or make it: mkdir -m 700 {quote(path)}",
        )
    return path


def _is_link(path: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        return False


def _written_data_dir(root: str) -> str | None:
    """`[project] data_dir` as written in the file; None if it is not."""
    path = os.path.join(root, CONFIG_FILE)
    text = read_config_text(path)
    # The file that `init` writes has it in a comment.
    if not any("data_dir" in line and line.lstrip()[:1] != "#" for line in text.splitlines()):
        return None
    section = parse_toml(text, path).get("project", {})
    written = section.get("data_dir") if isinstance(section, dict) else None
    if written is None:
        return None
    if not isinstance(written, str) or not written:
        raise BadConfiguration(
            f"{path}: [project] data_dir: {written!r} is not a path",
            file=str(path),
            key="data_dir",
        )
    return written
