"""All runs that match, over the wire: how they are chosen, counted and changed page by page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, TypedDict

from stackshift_jobs.calls.drive import Calls
from stackshift_jobs.calls.runs import list_params
from stackshift_jobs.errors import StackshiftError, Usage, from_json


class RunFilters(TypedDict, total=False):
    """Which runs are meant: those that match all that is given, and without a filter every run.

    `status` is one status or several. `parent` selects runs that this run has started,
    `forked_from` its forks, `since` and `until` (a `datetime`, local if naive, or RFC 3339 text)
    runs created from then on and until then, `dead` those in the dead letter.
    """

    job: str
    status: str | Iterable[str]
    queue: str
    labels: Mapping[str, str]
    parent: str
    forked_from: str
    since: datetime | str
    until: datetime | str
    dead: bool


class BulkResult(NamedTuple):
    """What a change of many runs did: the ids of those that it was made to, newest first, and the
    error of each that refused it, by its id."""

    done: list[str]
    refused: dict[str, StackshiftError]


def filter_params(filters: Mapping[str, Any]) -> dict[str, Any]:
    """`filters` as params. Raises `Usage` for an unknown one, and for None: a filter that is not
    there would mean more runs."""
    if unknown := filters.keys() - RunFilters.__annotations__.keys():
        raise Usage(
            f"there is no filter {min(unknown)!r} for runs",
            hint="the filters are " + ", ".join(RunFilters.__annotations__),
        )
    for name, value in filters.items():
        if value is None:
            raise Usage(
                f"the filter {name} is None", hint="leave it out if all are meant, whatever it is"
            )
    return list_params(filters)


def change_all(method: str, params: dict[str, Any]) -> Calls[BulkResult]:
    """The calls that change all runs that match, by `run.cancel_all` and the like; returns what
    they did."""
    result = BulkResult([], {})
    page = yield method, params
    while True:
        for each in page["results"]:
            if "error" in each:
                result.refused[each["run"]] = from_json(each["error"])
            else:
                result.done.append(each["id"])
        if page["cursor"] is None:
            return result
        page = yield method, {**params, "cursor": page["cursor"]}
