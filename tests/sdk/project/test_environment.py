"""The variables of jobs: made of the account, the system and the settings."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

import pytest

from stackshift_jobs.errors import BadConfiguration
from stackshift_jobs.project import environment
from stackshift_jobs.project.config import Config, load_config
from stackshift_jobs.project.environment import interpreter, read_env_file, variables


@pytest.fixture(autouse=True)
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests is somebody else, once `tmp_path` has its name."""
    assert tmp_path.exists()
    somebody = pwd.struct_passwd(("ada", "x", 1000, 1000, "Ada", "/home/ada", "/usr/bin/fish"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: somebody)


def load(root: Path, text: str = "") -> Config:
    """The settings of the project at `root`."""
    (root / "stackshift.toml").write_text(text)
    return load_config(root, {})


def values(config: Config, **started_with: str) -> dict[str, str]:
    """The variables, if the daemon was started with those."""
    return {name: value for name, (value, _) in variables(config, started_with).items()}


def test_variables_are_the_documented_ones(tmp_path: Path) -> None:
    """Nothing of what the daemon was started with is among them (guarantee: environment)."""
    config = load(tmp_path, '[workers]\npath = ["/opt/bin"]\n')
    alone = values(config)
    assert sorted(alone) == ["HOME", "LANG", "LOGNAME", "PATH", "SHELL", "USER"]
    assert (alone["HOME"], alone["USER"], alone["LOGNAME"]) == ("/home/ada", "ada", "ada")
    assert alone["SHELL"] == "/bin/sh"
    assert alone["PATH"] == f"{Path(sys.executable).parent}:/opt/bin"
    elsewhere = dict.fromkeys((*alone, "TZ", "LC_ALL", "PYTHONPATH"), "elsewhere")
    assert values(config, **elsewhere) == alone


def test_data_directory_that_a_variable_names_is_passed_on(tmp_path: Path) -> None:
    """A command in a job then finds the daemon that runs it; a relative path is made absolute."""
    (tmp_path / "stackshift.toml").touch()
    found = variables(load_config(tmp_path, {"STACKSHIFT_DATA_DIR": "data"}), {})
    assert found["STACKSHIFT_DATA_DIR"] == (f"{tmp_path}/data", "STACKSHIFT_DATA_DIR")


def test_path_begins_with_the_interpreter_of_the_workers(tmp_path: Path) -> None:
    """A directory in it is relative to the project, or to the home directory of the account."""
    config = load(tmp_path, '[workers]\npython = "~/py/bin/python"\npath = "tools:~/bin:/bin"\n')
    assert interpreter(config) == "/home/ada/py/bin/python"
    assert values(config)["PATH"] == f"/home/ada/py/bin:{tmp_path}/tools:/home/ada/bin:/bin"
    config = load(tmp_path, '[workers]\npython = "/usr/bin/python3"\npath = "/bin:/usr/bin"\n')
    assert values(config)["PATH"] == "/bin:/usr/bin"


def test_own_virtual_environment_is_used_if_it_has_us(tmp_path: Path) -> None:
    """And comes first in PATH."""
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "python").touch()
    assert interpreter(load(tmp_path)) == sys.executable
    (tmp_path / ".venv/lib/python3.12/site-packages/stackshift_jobs").mkdir(parents=True)
    assert interpreter(load(tmp_path)) == str(programs / "python")
    assert values(load(tmp_path))["PATH"].startswith(f"{programs}:/home/ada/.local/bin:")


def test_settings_add_variables_in_their_order(tmp_path: Path) -> None:
    """`inherit_env` replaces what is documented, `env_file` both; each says where it is from."""
    (tmp_path / ".env").write_text("\ufeffFIRST=1\nexport HOME='/tmp'\n# no=1\n", encoding="utf-8")
    config = load(
        tmp_path,
        '[project]\nenv_file = ".env"\n[workers]\ninherit_env = ["USER", "HOME", "NONE"]\n',
    )
    found = variables(config, {"USER": "bob", "HOME": "/home/bob", "OTHER": "x"})
    assert found["FIRST"] == ("1", "project.env_file")
    assert found["HOME"] == ("/tmp", "project.env_file")
    assert found["USER"] == ("bob", "workers.inherit_env")
    assert found["LOGNAME"] == ("ada", "account")
    assert not {"NONE", "OTHER"} & found.keys()
    everything = load(tmp_path, '[workers]\ninherit_env = ["*"]\n')
    assert values(everything, OTHER="x", TZ="UTC")["OTHER"] == "x"


def test_env_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    """It names the setting and the file."""
    config = load(tmp_path, '[project]\nenv_file = "none.env"\n')
    with pytest.raises(BadConfiguration, match=r"\[project\] env_file .*none\.env cannot be read"):
        variables(config)


def test_language_is_that_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one that has every character."""
    config = load(tmp_path)
    file = tmp_path / "locale.conf"
    monkeypatch.setattr(environment, "LOCALE_FILES", (str(tmp_path / "none"), str(file)))
    assert values(config)["LANG"].endswith("UTF-8")
    file.write_text('LANG="pt_BR.UTF-8"\nLC_TIME=C\n')
    assert values(config)["LANG"] == "pt_BR.UTF-8"
    assert "LC_TIME" not in values(config)


def test_user_without_an_account_has_variables_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs under any id."""

    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    found = values(load(tmp_path), HOME="/home/bob")
    assert (found["HOME"], found["USER"]) == ("/", str(os.geteuid()))


def test_env_file_keeps_values_as_they_are_written(tmp_path: Path) -> None:
    """Equals signs belong to the value, quotes around it do not. Lines end at line feeds alone,
    with or without a carriage return."""
    file = tmp_path / ".env"
    file.write_bytes(
        'URL=postgres://a?b=c\r\nA = "x y"\n \n #B=1\nC=\'\nD=a\u2028b\x0bc # d\n'.encode()
    )
    assert read_env_file(file) == {
        "URL": "postgres://a?b=c",
        "A": "x y",
        "C": "'",
        "D": "a\u2028b\x0bc # d",
    }


@pytest.mark.parametrize(
    "line",
    ["PASSWORD: secret", "PASSWORD", "=secret", "MY PASSWORD=secret", 'secret"', "A=secret\0"],
)
def test_line_that_assigns_nothing_is_an_error(tmp_path: Path, line: str) -> None:
    """The job would run without what somebody wrote there. The line is named, but not shown, since
    it may be a secret."""
    (tmp_path / ".env").write_text(f"FIRST=1\n\n{line}\n", encoding="utf-8")
    with pytest.raises(BadConfiguration) as refused:
        variables(load(tmp_path, '[project]\nenv_file = ".env"\n'))
    assert f"{tmp_path}/.env:3: this line is not NAME=value" in refused.value.message
    assert "secret" not in refused.value.message + refused.value.hint
