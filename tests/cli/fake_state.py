"""State, locks and events of the fake daemon: enough of them to see what was asked."""

from __future__ import annotations

from typing import Any

from stackshift_jobs.errors import Conflict, LockHeld, NotFound

AT = "2026-05-06T09:00:00.000000Z"
LATER = "2026-05-06T10:00:00.000000Z"


def entry_object(key: str, value: Any, version: int = 1, **changed: Any) -> dict[str, Any]:
    """An entry of state with all its fields."""
    made: dict[str, Any] = {
        "key": key,
        "value": value,
        "version": version,
        "expires_at": None,
        "updated_at": AT,
        "updated_by": "client",
    }
    return made | changed


def event_object(number: int, name: str = "paid", **changed: Any) -> dict[str, Any]:
    """A kept event with all its fields."""
    made: dict[str, Any] = {
        "id": event_id(number),
        "name": name,
        "correlation_key": None,
        "payload": None,
        "received_at": AT,
        "kept_until": LATER,
    }
    return made | changed


def event_id(number: int) -> str:
    """The id of the test's event `number`."""
    return f"evt_01kan5c8{number:018d}"


class FakeState:
    """Its entries, locks and kept events; nothing of it expires by itself."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self.history: list[dict[str, Any]] = []
        self.locks: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self._tokens = 6

    # --- State ---

    def put(self, key: str, value: Any, **changed: Any) -> dict[str, Any]:
        """An entry is there."""
        version = self.entries[key]["version"] + 1 if key in self.entries else 1
        self.entries[key] = entry_object(key, value, version, **changed)
        return self.entries[key]

    def on_state_get(self, params: dict[str, Any]) -> Any:
        return self.entries.get(params["key"])

    def on_state_set(self, params: dict[str, Any]) -> Any:
        there = self.entries.get(params["key"])
        version = there["version"] if there else None
        wanted = params.get("if_version")
        if (params.get("if_absent") and there) or wanted not in (None, version or 0):
            raise Conflict(
                f"state {params['key']!r} has version {version}, not {wanted}", version=version
            )
        return self.put(
            params["key"], params["value"], expires_at=LATER if "ttl_ms" in params else None
        )

    def on_state_increment(self, params: dict[str, Any]) -> Any:
        there = self.entries.get(params["key"], {"value": 0})["value"]
        if isinstance(there, str):
            raise Conflict(f"state {params['key']!r} holds a string, not a number")
        return self.put(params["key"], there + params.get("by", 1))

    def on_state_delete(self, params: dict[str, Any]) -> Any:
        gone = self.entries.pop(params["key"], None)
        return {
            "key": params["key"],
            "deleted": gone is not None,
            "version": gone["version"] + 1 if gone else None,
        }

    def on_state_list(self, params: dict[str, Any]) -> Any:
        keys = sorted(key for key in self.entries if key.startswith(params["prefix"]))
        keys = [key for key in keys if key > params.get("after", "")]
        page = keys[: params["limit"]]
        return {
            "entries": [self.entries[key] for key in page],
            "next": page[-1] if len(page) < len(keys) else None,
        }

    def on_state_history(self, params: dict[str, Any]) -> Any:
        before = params.get("before_seq", 2**63)
        found = [each for each in self.history if each["seq"] < before]
        page = found[: params["limit"]]
        return {"history": page, "next": page[-1]["seq"] if len(page) < len(found) else None}

    # --- Locks ---

    def on_lock_acquire(self, params: dict[str, Any]) -> Any:
        there = self.locks.get(params["key"])
        if there and there["asker"] != params["asker"]:
            raise LockHeld(
                "it is held", owner=None, holder=there["holder"], expires_at=there["expires_at"]
            )
        if not there:
            self._tokens += 1
            there = {
                "key": params["key"],
                "token": self._tokens,
                "expires_at": LATER,
                "holder": params["holder"],
                "asker": params["asker"],
            }
            self.locks[params["key"]] = there
        return {name: there[name] for name in ("key", "token", "expires_at")}

    def _held(self, params: dict[str, Any]) -> dict[str, Any]:
        there = self.locks.get(params["key"])
        if there is None:
            raise NotFound(f"nobody holds the lock {params['key']!r}")
        if there["token"] != params["token"]:
            raise LockHeld(
                f"{params['key']!r} is held with another token",
                hint="wait for it: --wait 1m",
                owner=None,
                holder=there["holder"],
                expires_at=there["expires_at"],
            )
        return there

    def on_lock_extend(self, params: dict[str, Any]) -> Any:
        there = self._held(params)
        return {name: there[name] for name in ("key", "token", "expires_at")}

    def on_lock_release(self, params: dict[str, Any]) -> Any:
        there = self._held(params)
        del self.locks[params["key"]]
        return {"key": there["key"], "token": there["token"]}

    # --- Events ---

    def on_event_send(self, params: dict[str, Any]) -> Any:
        kept_until = None if params.get("ttl_ms") == 0 else LATER
        event = event_object(
            len(self.events) + 1,
            params["name"],
            payload=params.get("payload"),
            correlation_key=params.get("correlation_key"),
            kept_until=kept_until,
        )
        if kept_until:
            self.events.append(event)
        return {
            "id": event["id"],
            "name": event["name"],
            "resumed": [],
            "reused": False,
            "correlation_key": event["correlation_key"],
            "kept_until": kept_until,
        }

    def on_event_list(self, params: dict[str, Any]) -> Any:
        found = list(reversed(self.events))
        for name in ("name", "correlation_key"):
            found = [each for each in found if params.get(name) in (None, each[name])]
        if "cursor" in params:
            found = found[[each["id"] for each in found].index(params["cursor"]) + 1 :]
        page = found[: params["limit"]]
        return {"events": page, "cursor": page[-1]["id"] if len(page) < len(found) else None}
