"""Where a user's own settings are, and what there is for one without a home."""

from __future__ import annotations

from collections.abc import Callable

import platformdirs
import pytest

from stackshift_cli import user_config
from stackshift_jobs.errors import BadConfiguration


def refuses(_name: str) -> str:
    """As platformdirs does it by now."""
    raise RuntimeError("could not determine the home directory for '~/.config'")


def keeps_the_name(name: str) -> str:
    """As it did it before."""
    return f"~/.config/{name}"


@pytest.mark.parametrize("directory_of", [refuses, keeps_the_name])
def test_user_without_a_home_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch, directory_of: Callable[[str], str]
) -> None:
    """A container may run under an id that has no account; nothing is written to `./~`."""
    monkeypatch.setattr(platformdirs, "user_config_dir", directory_of)
    monkeypatch.setattr(platformdirs, "user_data_dir", directory_of)
    for place in (user_config.path, user_config.data_folder):
        with pytest.raises(BadConfiguration, match="has no account, and HOME is not set") as told:
            place()
        assert "set HOME" in told.value.hint
