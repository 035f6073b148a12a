"""Whose a project is: what another user could have written is refused before it is read."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path

import pytest

from stackshift_jobs.client.blocking import Client
from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.project import trust
from stackshift_jobs.project.code import check_code
from stackshift_jobs.project.config import load_config
from stackshift_jobs.project.locate import Project, find_project
from stackshift_jobs.project.trust import check_data_dir, note_of_root, permission_hint

ME, STRANGER = 4101, 4102
MY_GROUP, TEAM = 4101, 4200


class World:
    """A project of the user `ME`, and what the system says about owners and modes: as on the disk,
    except that all of the test's own files are `ME`'s unless `change` says otherwise."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root.parent / "home"
        self._changes: dict[str, dict[str, int]] = {}
        self._top = os.fspath(root.parent)
        self._lstat = os.lstat

    def change(self, path: str | Path, **status: int) -> None:
        """Let `path`, relative to the root, have this `uid`, `gid` or `mode`."""
        self._changes[os.fspath(self.root / path)] = status

    def lstat(self, path: str, *_: object, **__: object) -> os.stat_result:
        """See `os.lstat`."""
        found = self._lstat(path)
        if not os.fspath(path).startswith(self._top):
            # Above the test's own directories, the world is in order.
            return _status(found, uid=0, gid=0, mode=0o755)
        mine = {"uid": ME, "gid": MY_GROUP, "mode": stat.S_IMODE(found.st_mode) & ~0o022}
        return _status(found, **(mine | self._changes.get(os.fspath(path), {})))

    def find(self) -> Project:
        """The project, as a command finds it."""
        return find_project(self.root, environ={})


def _status(found: os.stat_result, uid: int, gid: int, mode: int) -> os.stat_result:
    fields = list(found)[:10]
    fields[0] = stat.S_IFMT(found.st_mode) | mode
    fields[4], fields[5] = uid, gid
    return os.stat_result(fields)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A project with one job, and its user's home."""
    root = tmp_path / "shop"
    (root / "jobs" / "deep").mkdir(parents=True)
    (root / "stackshift.toml").touch()
    (root / "jobs" / "one.py").touch()
    (root / "jobs" / "deep" / "two.py").touch()
    made = World(root.resolve())
    made.home.mkdir()
    monkeypatch.setenv("HOME", str(made.home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(os, "lstat", made.lstat)
    monkeypatch.setattr(os, "geteuid", lambda: ME)
    names = {ME: "me", STRANGER: "stranger", 0: "root"}
    users = {uid: _user(name, uid) for uid, name in names.items()}
    groups = {MY_GROUP: _group("me", MY_GROUP), TEAM: _group("team", TEAM, "me", "stranger")}
    monkeypatch.setattr(pwd, "getpwuid", users.__getitem__)
    monkeypatch.setattr(grp, "getgrgid", groups.__getitem__)
    return made


def _user(name: str, uid: int) -> pwd.struct_passwd:
    return pwd.struct_passwd((name, "x", uid, uid, "", "/", "/bin/sh"))


def _group(name: str, gid: int, *members: str) -> grp.struct_group:
    return grp.struct_group((name, "x", gid, list(members)))


CHANGES: dict[str, dict[str, int]] = {
    "another user's": {"uid": STRANGER},
    "open to all": {"mode": 0o777},
    "open to a team": {"mode": 0o775, "gid": TEAM},
}


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("what", ["..", ".", "stackshift.toml"])
def test_settings_that_others_can_change_are_not_read(world: World, what: str, how: str) -> None:
    """The file, its directory or one above it: refused with path, mode, owner and the way out, for
    commands and applications alike, before a byte is read. (guarantee: own code)"""
    (world.root / "stackshift.toml").write_text("data_dir = not TOML")
    at = (world.root / what).resolve()
    world.change(at, **{"mode": 0o755, "uid": ME, "gid": MY_GROUP} | CHANGES[how])
    for ask in (world.find, lambda: Client(world.root)):
        with pytest.raises(BadConfiguration) as refused:
            ask()
        assert str(refused.value).startswith(f"{at} (mode 0")
        assert refused.value.fields["path"] == str(at)
        assert refused.value.hint.endswith(f"stackshift config trust {world.root}")
        assert refused.value.exit_status == 78
    owner = "stranger (uid 4102)" if how == "another user's" else "me (uid 4101)"
    assert owner in str(refused.value)


def test_ones_own_project_is_used(world: World) -> None:
    """Also one that is root's, or open to the private group of its owner; nothing is asked about
    members of groups where nothing is open to one."""
    assert world.find().root == world.root
    for status in (
        {"uid": 0, "gid": 0, "mode": 0o644},
        {"uid": 0, "gid": 0, "mode": 0o664},
        {"uid": ME, "gid": MY_GROUP, "mode": 0o664},
        {"uid": 0, "gid": MY_GROUP, "mode": 0o664},
    ):
        world.change("stackshift.toml", **status)
        assert world.find().root == world.root, status


def test_group_is_private_by_its_name_and_members(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another member, or another name, makes it open; without any names (a container), a group with
    the user's number is his."""
    world.change("stackshift.toml", uid=ME, gid=MY_GROUP, mode=0o664)
    for group in (_group("me", MY_GROUP, "me", "stranger"), _group("users", MY_GROUP)):
        monkeypatch.setattr(grp, "getgrgid", {MY_GROUP: group}.__getitem__)
        with pytest.raises(BadConfiguration):
            world.find()
    monkeypatch.setattr(grp, "getgrgid", {}.__getitem__)
    assert world.find().root == world.root
    world.change("stackshift.toml", uid=ME, gid=TEAM, mode=0o664)
    with pytest.raises(BadConfiguration):
        world.find()


def test_directories_above_may_be_open_where_nobody_can_rename_an_entry(world: World) -> None:
    """`/tmp`, by its sticky bit, and what root has opened to a group; but the project's own
    directory may not, since there a new file is enough."""
    above = world.root.parent
    for status in ({"uid": 0, "gid": 0, "mode": 0o1777}, {"uid": 0, "gid": TEAM, "mode": 0o2775}):
        world.change(above, **status)
        assert world.find().root == world.root
        world.change(".", **status)
        with pytest.raises(BadConfiguration) as refused:
            world.find()
        assert refused.value.fields["path"] == str(world.root)
        world.change(".", uid=ME, gid=MY_GROUP, mode=0o755)
    world.change(above, uid=STRANGER, gid=0, mode=0o1777)
    with pytest.raises(BadConfiguration):  # The owner of a sticky directory can rename anything.
        world.find()


CODE = """
jobs jobs/one.py jobs/backup.sh jobs/deep jobs/deep/two.py jobs/deep/__pycache__/two.pyc shop.py
goods goods/__init__.py goods/prices.py settings.env hooks/notify.sh hooks/tell.py venv/bin
venv/bin/python venv/pyvenv.cfg venv/lib/python3.12/site-packages
""".split()


@pytest.mark.parametrize("how", CHANGES)
@pytest.mark.parametrize("what", CODE)
def test_code_that_others_can_change_is_not_run(world: World, what: str, how: str) -> None:
    """Jobs at any depth, in Python or not, modules beside them, the file of variables, hooks, the
    interpreter and its packages. (guarantee: own code)"""
    root = world.root
    (root / "stackshift.toml").write_text(
        '[project]\nenv_file = "settings.env"\n[workers]\npython = "venv/bin/python"\n'
        '[hooks]\non_failed = "hooks/notify.sh --now"\non_completed = ["python", "hooks/tell.py"]\n'
    )
    for file in CODE:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        if "." in Path(file).name:
            (root / file).touch()
    (root / "venv/bin/python").touch()
    (root / "venv/lib/python3.12/site-packages").mkdir()
    config = load_config(world.find().root)
    check_code(config)
    world.change(what, **{"mode": 0o755, "uid": ME, "gid": MY_GROUP} | CHANGES[how])
    with pytest.raises(BadConfiguration) as refused:
        check_code(config)
    assert refused.value.fields["path"] == str(root / what)


def test_what_no_import_runs_may_be_anybodys(world: World) -> None:
    """Data beside the jobs, folders without modules, files that only look at the project."""
    for path in ("jobs/data.csv", "notes.md", "uploads/in.csv"):
        (world.root / path).parent.mkdir(exist_ok=True)
        (world.root / path).touch()
        world.change(path, uid=STRANGER, gid=TEAM, mode=0o666)
    world.change("uploads", uid=STRANGER, gid=TEAM, mode=0o777)
    check_code(load_config(world.find().root))


def test_links_are_followed_and_are_their_owners(world: World) -> None:
    """A link leads to what is checked; one that somebody else made could lead anywhere."""
    (world.root / "shared").mkdir()
    (world.root / "shared/three.py").touch()
    (world.root / "jobs/more").symlink_to("../shared")
    (world.root / "jobs/three.py").symlink_to("more/three.py")
    config = load_config(world.find().root)
    check_code(config)
    for what in ("jobs/more", "jobs/three.py", "shared", "shared/three.py"):
        world.change(what, uid=STRANGER, gid=TEAM, mode=0o755)
        with pytest.raises(BadConfiguration) as refused:
            check_code(config)
        assert refused.value.fields["path"] == str(world.root / what)
        world.change(what, uid=ME, gid=MY_GROUP, mode=0o755)
    world.change("shared", uid=0, gid=TEAM, mode=0o775)  # Fine further up, not in the project.
    with pytest.raises(BadConfiguration):
        check_code(config)
    world.change("shared", uid=ME, gid=MY_GROUP, mode=0o755)
    (world.root / "jobs/loop.py").symlink_to("loop.py")
    check_code(config)  # There is nothing at its end.
    (world.root / "shared/four.py").touch()
    world.change("jobs/more/four.py", uid=ME, gid=MY_GROUP, mode=0o666)
    with pytest.raises(BadConfiguration) as refused:  # It is loaded through the link.
        check_code(config)
    assert refused.value.fields["path"] == str(world.root / "jobs/more/four.py")


def _trust(world: World, *directories: str | Path) -> Path:
    file = world.home / ".config/stackshift/config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"trusted = {[str(each) for each in directories]}\n".replace("'", '"'))
    return file


def test_trusted_project_is_used_whoever_can_change_it(world: World) -> None:
    """And no other, neither above nor below it."""
    world.change(".", uid=STRANGER, gid=TEAM, mode=0o777)
    _trust(world, world.root.parent, world.root / "jobs", f"{world.root}x")
    with pytest.raises(BadConfiguration):
        world.find()
    _trust(world, "/elsewhere", world.root)
    check_code(load_config(world.find().root))


@pytest.mark.parametrize("what", ["config.toml", ".", ".."])
def test_list_that_others_can_change_trusts_nothing(world: World, what: str) -> None:
    """As when root keeps the HOME of somebody else. (guarantee: own code)"""
    world.change(".", uid=STRANGER, gid=TEAM, mode=0o755)
    file = _trust(world, world.root)
    at = (file.parent / what).resolve()
    world.change(at, uid=STRANGER, gid=TEAM, mode=0o755)
    with pytest.raises(BadConfiguration) as refused:
        world.find()
    assert refused.value.fields["path"] == str(world.root)
    with pytest.raises(BadConfiguration, match="does not count"):
        trust.check_user_file(str(file))


@pytest.mark.parametrize("text", ['trusted = "/srv"\n', "trusted = [1]\n", "trusted = [\n"])
def test_list_that_is_not_one_is_an_error(world: World, text: str) -> None:
    """It names the file, and not the project, which nothing is wrong with."""
    world.change(".", uid=STRANGER, gid=TEAM, mode=0o755)
    file = _trust(world)
    file.write_text(text)
    with pytest.raises(BadConfiguration, match=str(file)):
        world.find()


def test_data_directory_of_another_user_is_refused_even_if_the_project_is_trusted(
    world: World,
) -> None:
    """Root's after `sudo`, or the other way round: who it belongs to, and what to do."""
    (world.root / ".stackshift").mkdir(mode=0o700)
    _trust(world, world.root)
    assert world.find().data_dir == world.root / ".stackshift"
    world.change(".stackshift", uid=0, gid=0, mode=0o700)
    with pytest.raises(BadConfiguration, match=r"belongs to root \(uid 0\)") as refused:
        world.find()
    assert "you are me (uid 4101)" in str(refused.value)
    assert "sudo chown -R me" in refused.value.hint
    world.change(".stackshift", uid=ME, gid=MY_GROUP, mode=0o750)
    with pytest.raises(BadConfiguration, match="accessible to other users") as refused:
        world.find()
    assert refused.value.hint == f"chmod -R go= {world.root}/.stackshift"


def test_sandbox_that_hides_who_owns_the_top_is_not_in_the_way(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root of the outside shows as nobody there; in the project itself, nobody is a stranger."""
    monkeypatch.setattr(trust, "_is_unmapped", lambda uid: uid == STRANGER)
    world.change(world.root.parent, uid=STRANGER, gid=TEAM, mode=0o755)
    assert world.find().root == world.root
    world.change(".", uid=STRANGER, gid=TEAM, mode=0o755)
    with pytest.raises(BadConfiguration):
        world.find()


def test_data_directory_that_root_made_in_ones_own_project_can_be_taken_over(world: World) -> None:
    """By a first command with `sudo`, most likely; to run all others as root would be worse."""
    (world.root / ".stackshift").mkdir()
    world.change(".stackshift", uid=0, gid=0, mode=0o700)
    with pytest.raises(BadConfiguration) as refused:
        check_data_dir(f"{world.root}/.stackshift")
    assert refused.value.hint.endswith(f"then: sudo chown -R me {world.root}/.stackshift")
    world.change(".", uid=STRANGER, gid=0, mode=0o755)
    with pytest.raises(BadConfiguration) as refused:
        check_data_dir(f"{world.root}/.stackshift")
    assert refused.value.hint.startswith("run the command as its owner")


def test_root_is_told_what_it_makes_in_the_project_of_another(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else is, and not in a project of root's own."""
    where = str(world.root), f"{world.root}/.stackshift"
    assert note_of_root(*where) is None
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert str(note_of_root(*where)).endswith(f"then chown -R me {world.root}/.stackshift")
    world.change(".", uid=0, gid=0, mode=0o755)
    assert note_of_root(*where) is None


def test_hint_for_a_refused_file_names_what_refuses_it(world: World) -> None:
    """The owner or the mode of the file, or of the directory it was to be made in. A directory of
    another user is not taken from them for one new file."""
    file = world.root / "lock"
    assert permission_hint(str(file)) == ""
    world.change(".", uid=ME, gid=MY_GROUP, mode=0o500)
    assert permission_hint(str(file)) == f"{world.root} has mode 0500: chmod u+rwX {world.root}"
    world.change(".", uid=0, gid=0, mode=0o755)
    assert permission_hint(str(file)) == ""
    file.touch()
    world.change("lock", uid=STRANGER, gid=0, mode=0o600)
    owner = "stranger (uid 4102)"
    assert permission_hint(str(file)) == f"{file} belongs to {owner}: sudo chown -R me {file}"
