"""Which names the code of a handler contains."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any

import pytest

from stackshiftd.worker.literals import Literals

PROJECT = str(Path(__file__).parent)
GLOBAL = "global"
NAMES = ("in a tuple", "other")


class Step(enum.StrEnum):
    """Names as an enum has them."""

    PAY = "of an enum"

    def method(self) -> str:
        return "in a method"


def helper(ctx: Any) -> Any:
    return ctx.step.run("in a helper", print)


def unused() -> str:
    return "elsewhere"


def handler(ctx: Any) -> None:
    def inner() -> Any:
        return ctx.step.run("inside", print)

    ctx.step.run(f"page-{1}", inner)
    ctx.step.run(GLOBAL, helper)
    ctx.step.map(Step.PAY, print, NAMES)
    ctx.step.run("no", print)


@pytest.mark.parametrize(
    "name",
    ["inside", "in a helper", "global", "in a tuple", "of an enum", "in a method", "page-7", "no"],
)
def test_name_is_found_in_all_that_the_handler_refers_to(name: str) -> None:
    """Functions within it, helpers, constants, enums; or the beginning of what is put together."""
    assert Literals(handler, PROJECT).name(name)


@pytest.mark.parametrize("name", ["elsewhere", "charge", "nothing"])
def test_name_that_only_others_have_is_not_found(name: str) -> None:
    """Code of other handlers does not count, and two letters begin no name."""
    assert not Literals(handler, PROJECT).name(name)
