"""The files that a worker's code was loaded from, as they were then.

A worker reports them in its greeting, so that the daemon can say which of them have changed since.
They are the job modules, and whatever else of the project these have imported; what is installed
(below `site-packages`, or an environment in the project) belongs to no project.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from stackshift_jobs.project import folders
from stackshift_jobs.project.script_header import is_script
from stackshift_jobs.values.text import readable

_PACKAGE: Final = "__init__.py"
_INSTALLED: Final = frozenset(("site-packages", "dist-packages"))


class ModuleSource(NamedTuple):
    """A job module: its dotted name and its file. A shell job is one too; its name is its path, as
    `jobs/nightlyBackup.sh`."""

    module: str
    file: Path
    dotted: str = ""
    """The name on its path with a dot, if there is one: no import finds that."""

    @property
    def is_script(self) -> bool:
        """Is it a shell job, and nothing to import?"""
        return "/" in self.module

    @property
    def problem(self) -> str:
        """Why it cannot be loaded, and what to do, as far as its path tells; else empty."""
        if not is_text(self.file):
            return "its path is not UTF-8: rename it"
        if self.dotted:
            other = self.dotted.replace(".", "_")
            return f"no import finds {self.dotted!r}, because of the dot: rename it to {other!r}"
        if not self.file.exists():
            return f"it is a link to {readable(str(self.file.readlink()))}, which does not exist"
        if folders.is_closed(str(self.file)):
            return f"the folder cannot be read: chmod u+rx {readable(str(self.file))}"
        return ""


class CodeFile(msgspec.Struct, frozen=True):
    """A file as it was loaded: time of its last change, size in bytes, and digest."""

    mtime_ns: int
    size: int
    digest: str


def sources(project: Path, jobs: list[str]) -> Iterator[ModuleSource]:
    """The job modules of a project: each file named in `jobs`, and every `*.py` and shell job below
    each folder named there, as `folders` walks it, except files and folders whose name begins with
    `_` or `.`; and each folder that cannot be read, which may hold some. The `__init__.py` of a
    package is one: it is imported with any other module of the package."""
    for place in jobs:
        path = project / place
        if path.is_file():
            yield _source(project, path)
            continue
        if folders.is_closed(str(path)):
            yield ModuleSource(place, path)
        for entry in folders.walk(str(path)):
            file = Path(entry.path)
            inside = file.relative_to(path)
            named = inside.parent if file.name == _PACKAGE and file.parent != project else inside
            if any(part.startswith(("_", ".")) for part in named.parts):
                continue
            is_module = file.suffix == ".py" and not file.is_dir()
            if is_module or is_script(file) or folders.is_closed(entry.path):
                yield _source(project, file)


def _source(project: Path, file: Path) -> ModuleSource:
    inside = file.relative_to(project)
    if file.suffix == ".py":
        module = inside.parent if file.name == _PACKAGE else inside.with_suffix("")
        dotted = next((part for part in module.parts if "." in part), "")
        return ModuleSource(".".join(module.parts), file, dotted)
    path = inside.as_posix()
    return ModuleSource(path if "/" in path else f"./{path}", file)


def is_text(path: Path) -> bool:
    """Is the path UTF-8?"""
    return readable(str(path)) == str(path)


def read_file(path: Path) -> CodeFile | None:
    """The file as it is now; None if it cannot be read, or is none: a pipe would never end."""
    try:
        status = path.stat()  # before its content, so that a later change is not overlooked
        if not stat.S_ISREG(status.st_mode):
            return None
        return CodeFile(
            status.st_mtime_ns, status.st_size, sha256(path.read_bytes()).hexdigest()[:16]
        )
    except OSError:
        return None


def read_sources(project: Path, jobs: list[str]) -> dict[str, CodeFile]:
    """The files of the job modules, by path relative to the project. A worker reads them before it
    imports them: what changes meanwhile counts as changed."""
    return read_files(project, {source.file for source in sources(project, jobs)})


def read_files(project: Path, paths: set[Path]) -> dict[str, CodeFile]:
    """Those of the files that are in the project and can be named and read, by relative path."""
    inside = (path for path in paths if path.is_relative_to(project) and is_text(path))
    read = {_path(project, path): read_file(path) for path in inside}
    return {path: file for path, file in read.items() if file is not None}


def read_imported(project: Path) -> dict[str, CodeFile]:
    """The files of the project that this process has imported modules from, by relative path."""
    found: dict[str, CodeFile] = {}
    for module in list(sys.modules.values()):
        name = getattr(module, "__file__", None)
        if not isinstance(name, str):
            continue
        path = Path(name)
        is_projects = path.is_relative_to(project) and not _is_installed(project, path)
        if is_projects and is_text(path):
            file = read_file(path)
            if file is not None:
                found[_path(project, path)] = file
    return found


def _is_installed(project: Path, path: Path) -> bool:
    parts = path.relative_to(project).parts
    prefix = Path(sys.prefix)
    is_in_environment = prefix != project and path.is_relative_to(prefix)
    return is_in_environment or not _INSTALLED.isdisjoint(parts)


def _path(project: Path, file: Path) -> str:
    return file.relative_to(project).as_posix()


def changed(project: Path, jobs: list[str], loaded: dict[str, CodeFile]) -> list[str]:
    """The files that differ from what was `loaded`, that are new in the folders of jobs, or that
    are gone; sorted. One that was only touched, and is as it was, is none of them."""
    now = {_path(project, each.file) for each in sources(project, jobs) if not each.problem}
    different = [path for path, file in loaded.items() if differs(project / path, file)]
    return sorted({*different, *(now - loaded.keys())})


def differs(path: Path, loaded: CodeFile) -> bool:
    """Has the content of a file changed since it was `loaded`, or is it gone?"""
    try:
        status = path.stat()
    except OSError:
        return True
    if (status.st_mtime_ns, status.st_size) == (loaded.mtime_ns, loaded.size):
        return False
    now = read_file(path)
    return now is None or now.digest != loaded.digest
