"""Secrets: never seen, never recorded, and found in whatever is about to be."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict

import fastjsonschema
import msgspec
import pydantic
import pytest

from stackshift_jobs.errors import PayloadRefused, Usage
from stackshift_jobs.values import secrets
from stackshift_jobs.values.encoding import payload_form
from stackshift_jobs.values.masking import Secrets
from stackshift_jobs.values.payload_types import convert, schema
from stackshift_jobs.values.secrets import (
    Reference,
    Secret,
    current_secrets,
    reference_of,
    with_secrets,
)
from stackshift_jobs.values.strict_json import dumps

TEXT = "correct-horse-battery"
TOKEN = Reference("$env", "TOKEN")
MASKED = "[secret $env TOKEN]"


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """What a test makes is known in no other test."""
    made_here = current_secrets.set(Secrets())
    yield
    current_secrets.reset(made_here)


# --- A secret ------------------------------------------------------------------------------


def test_secret_shows_where_it_came_from_and_never_its_text() -> None:
    """Printed, formatted, and within other values; only `reveal` returns the text."""
    secret = Secret(TEXT, TOKEN)
    assert secret.reveal() == TEXT
    shown = [str(secret), repr(secret), f"{secret}", f"{secret!r}", "%s" % secret]  # noqa: UP031
    assert set(shown) == {MASKED}
    assert repr({"a": [secret]}) == "{'a': [" + MASKED + "]}"
    assert str(Secret(TEXT)) == "[secret]"
    with pytest.raises(TypeError, match="concatenate"):
        str("Bearer " + secret)  # type: ignore[operator]
    with pytest.raises(Usage, match="bytes"):
        Secret(TEXT.encode())  # type: ignore[arg-type]


def test_secret_is_a_value_that_cannot_be_pickled() -> None:
    """It compares by its text, is the same object in a copy, and goes into no other process."""
    secret = Secret(TEXT)
    assert secret == Secret(TEXT, TOKEN) != Secret("other-text")
    assert secret != TEXT
    assert len({secret, Secret(TEXT)}) == 1
    assert (bool(secret), bool(Secret(""))) == (True, False)
    assert copy.copy(secret) is copy.deepcopy([secret])[0] is secret
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(secret)


@pytest.mark.parametrize(
    "value",
    [
        {"$env": "A", "x": 1},
        {"$env": 1},
        {"$file": None},
        {"env": "A"},
        {},
        ["$env", "A"],
        "$env",
        {"$ENV": "A"},
    ],
)
def test_reference_is_an_object_of_one_text(value: Any) -> None:
    """Anything else is data, and comes as it is."""
    assert reference_of(value) is None
    assert with_secrets(value, lambda _: Secret(TEXT)) == value


def test_references_are_replaced_wherever_they_are() -> None:
    """In objects and arrays, and as the whole payload."""
    made = lambda reference: Secret(f"text of {reference}", reference)  # noqa: E731
    value = {"a": [1, {"b": {"$env": "B"}}], "c": {"$file": "c"}, "d": {"$env": 1}}
    got = with_secrets(value, made)
    assert got["a"][1]["b"].reveal() == "text of $env B"
    assert got["c"].reveal() == "text of $file c"
    assert got["d"] == {"$env": 1}
    assert with_secrets({"$env": "A"}, made).reveal() == "text of $env A"
    assert value["c"] == {"$file": "c"}


# --- JSON ----------------------------------------------------------------------------------


@dataclass
class Account:
    """Types with secrets in them, by the libraries that read them."""

    token: Secret
    more: list[Secret] = field(default_factory=list)
    other: Secret | None = None
    note: str = ""


class AccountDict(TypedDict):
    """The same."""

    token: Secret


class AccountStruct(msgspec.Struct):
    """The same."""

    token: Secret


class AccountModel(pydantic.BaseModel):
    """The same."""

    token: Secret
    note: str = ""


@dataclass
class Nested:
    """A model in a dataclass."""

    model: AccountModel


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (Secret(TEXT, TOKEN), "$"),
        ({"a": [1, Secret(TEXT)]}, "$.a[1]"),
        ({"a": Account(Secret(TEXT))}, "$.a.token"),
        ({"a": AccountStruct(Secret(TEXT))}, "$.a.token"),
        ({"a": AccountModel(token=Secret(TEXT))}, "$.a"),
        ({Secret(TEXT): 1}, "$"),
    ],
    ids=["alone", "array", "dataclass", "struct", "model", "key"],
)
def test_encoder_refuses_a_secret_with_its_path(value: Any, path: str) -> None:
    """Wherever it is, and without its text in the message."""
    with pytest.raises(PayloadRefused) as refused:
        dumps(value)
    assert refused.value.path == path
    assert TEXT not in str(refused.value)


def test_payload_of_a_run_holds_the_reference() -> None:
    """So a handler passes on what it was given, and the other worker resolves it; a secret that
    came from nowhere is refused here too."""
    secret = Secret(TEXT, TOKEN)
    assert json.loads(dumps({"a": [secret]}, form=payload_form)) == {"a": [{"$env": "TOKEN"}]}
    account = json.loads(dumps(Account(secret, [secret]), form=payload_form))
    assert account == {
        "token": {"$env": "TOKEN"},
        "more": [{"$env": "TOKEN"}],
        "other": None,
        "note": "",
    }
    with pytest.raises(PayloadRefused, match=r"at \$.a: \[secret\] is never recorded"):
        dumps({"a": Secret(TEXT)}, form=payload_form)


@pytest.mark.parametrize("of", [Account, AccountDict, AccountStruct, AccountModel])
def test_types_have_fields_for_secrets(of: Any) -> None:
    """In every kind of type that a payload can have, and nothing else fits them."""
    secret = Secret(TEXT, TOKEN)
    read = convert({"token": secret}, of)
    token = read["token"] if isinstance(read, dict) else read.token
    assert token.reveal() == TEXT
    for bad in ("plain text", 5, None, {"$env": "TOKEN"}, {"x": 1}):
        with pytest.raises(PayloadRefused) as refused:
            convert({"token": bad}, of)
        assert refused.value.path == "$.token"
        assert 'must be {"$env": "NAME"} or {"$file": "path"}' in refused.value.message
    check = fastjsonschema.compile(schema(of) or {})
    check({"token": {"$env": "TOKEN"}})
    check({"token": {"$file": "secrets/token"}})
    for bad in ("plain text", {}, {"$env": 1}, {"$env": "A", "$file": "b"}, {"x": "y"}):
        with pytest.raises(fastjsonschema.JsonSchemaValueException):
            check({"token": bad})


def test_fields_for_secrets_can_be_anywhere() -> None:
    """In lists, optional, and in models that are parts."""
    one, two = Secret("the first one", Reference("$env", "A")), Secret("the second", TOKEN)
    read = convert({"token": one, "more": [two, one], "other": two}, Account)
    assert [each.reveal() for each in (*read.more, read.other)] == [
        "the second",
        "the first one",
        "the second",
    ]
    assert asdict(read)["token"] is one
    nested = convert({"model": {"token": two, "note": "n"}}, Nested)
    assert (nested.model.token, nested.model.note) == (two, "n")


def test_secret_does_not_fit_a_field_of_text() -> None:
    """A payload from outside could otherwise have any variable sent to where its text goes: it is
    the job that says where it takes a secret."""
    secret = Secret(TEXT, TOKEN)
    for of in (Account, AccountModel):
        with pytest.raises(PayloadRefused) as refused:
            convert({"token": secret, "note": secret}, of)
        assert refused.value.path == "$.note"
    check = fastjsonschema.compile(schema(Account) or {})
    with pytest.raises(fastjsonschema.JsonSchemaValueException):
        check({"token": {"$env": "A"}, "note": {"$env": "A"}})


# --- Who knows of them ---------------------------------------------------------------------


def test_executions_know_their_own_and_what_modules_made() -> None:
    """The process knows all of it; one run does not know the secrets of another."""
    secrets.SHARED.add("made-at-import-of-a-module", "[secret]")
    one, two = secrets.of_execution(), secrets.of_execution()
    one.add("of-the-first-run", "[one]")
    assert one.mask("of-the-first-run") == "[one]"
    assert two.mask("of-the-first-run") == "of-the-first-run"
    assert two.mask("made-at-import-of-a-module") == "[secret]"
    assert secrets.PROCESS.mask("of-the-first-run, made-at-import-of-a-module") == "[one], [secret]"
    assert secrets.SHARED.mask("of-the-first-run") == "of-the-first-run"


def test_secret_is_known_to_whoever_reveals_it() -> None:
    """A job module may keep one that another run has made."""
    kept = Secret("kept-from-another-run")
    current_secrets.set(Secrets())
    assert current_secrets.get().found_in("kept-from-another-run") is None
    assert kept.reveal() == "kept-from-another-run"
    assert current_secrets.get().found_in("kept-from-another-run") == "[secret]"


def test_first_secret_is_announced_before_it_is_known() -> None:
    """Once: whoever cannot mask must learn it in time."""
    made, said = Secrets(), list[str]()
    made.when_first = lambda: said.append(made.mask("first-secret"))
    made.add("abc", "[too short]")
    made.add("first-secret", "[1]")
    made.add("second-secret", "[2]")
    assert said == ["first-secret"]
