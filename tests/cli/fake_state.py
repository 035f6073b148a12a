"""State, locks and events of the fake daemon, as far as tests need them."""

from __future__ import annotations

from typing import Any

from stackshift_jobs.errors import Conflict, LockHeld, NotFound

AT = "2026-05-06T09:00:00.000000Z"
LATER = "2026-05-06T10:00:00.000000Z"


def entry_object(key: str, value: Any, version: int = 1, **changed: Any) -> dict[str, Any]:
    """An entry of state with all its fields."""
    made = {"key": key, "value": value, "version": version, "expires_at": None}
    return made | {"updated_at": AT, "updated_by": "client"} | changed


def lock_object(key: str, **changed: Any) -> dict[str, Any]:
    """A lock as in `lock.list`: held by a client for an hour unless `changed` says otherwise."""
    client = {"run": None, "step": None, "holder": "backup.sh (pid 4711)", "token": 17}
    times = {"since": AT, "expires_at": LATER}
    shown = client | times | {"waiting": 0, "line": []} | changed
    held = {name: shown[name] for name in (*client, *times)}
    is_held = held["token"] is not None
    shown |= {"holders": 1 if is_held else None, "held_by": [held] if is_held else []}
    return {"key": key} | {name: value for name, value in shown.items() if name != "asker"}


def change_object(seq: int, kind: str, version: int, value: Any, **changed: Any) -> dict[str, Any]:
    """A change of an entry, as `state.history` tells it."""
    made = {"seq": seq, "at": AT, "kind": kind, "version": version, "value": value}
    return made | {"expires_at": None, "by": "client"} | changed


def event_object(number: int, name: str = "paid", **changed: Any) -> dict[str, Any]:
    """A kept event with all its fields."""
    made = {"id": event_id(number), "name": name, "correlation_key": None, "payload": None}
    return made | {"received_at": AT, "kept_until": LATER} | changed


def event_id(number: int) -> str:
    """The id of the test's event `number`."""
    return f"evt_01kan5c8{number:018d}"


def _holder(lock: dict[str, Any]) -> dict[str, Any]:
    """What a refusal tells of who holds `lock`: never a run."""
    return {"owner": None, "holder": lock["holder"], "expires_at": lock["expires_at"]}


class FakeState:
    """Entries, locks and kept events; nothing expires by itself."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self.history: list[dict[str, Any]] = []
        self.locks: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self._tokens = 6

    # --- State ---

    def put(self, key: str, value: Any, **changed: Any) -> dict[str, Any]:
        """Set the entry `key`, with the next version, and return it."""
        version = self.entries[key]["version"] + 1 if key in self.entries else 1
        self.entries[key] = entry_object(key, value, version, **changed)
        return self.entries[key]

    def on_state_get(self, params: dict[str, Any]) -> Any:
        """`state.get`: the entry, or null."""
        return self.entries.get(params["key"])

    def on_state_wait(self, params: dict[str, Any]) -> Any:
        """`state.wait`: the entry, or null, as if the time were over at once."""
        return self.entries.get(params["key"])

    def on_state_set(self, params: dict[str, Any]) -> Any:
        """`state.set`: sets the entry if its version fits, else raises `Conflict`."""
        there = self.entries.get(params["key"])
        version = there["version"] if there else None
        wanted = params.get("if_version")
        if (params.get("if_absent") and there) or wanted not in (None, version or 0):
            told = f"state {params['key']!r} has version {version}, not {wanted}"
            raise Conflict(told, version=version)
        expires_at = LATER if "ttl_ms" in params else None
        return self.put(params["key"], params["value"], expires_at=expires_at)

    def on_state_increment(self, params: dict[str, Any]) -> Any:
        """`state.increment`: adds to a number; text raises `Conflict`."""
        there = self.entries.get(params["key"], {"value": 0})["value"]
        if isinstance(there, str):
            raise Conflict(f"state {params['key']!r} holds a string, not a number")
        return self.put(params["key"], there + params.get("by", 1))

    def on_state_delete(self, params: dict[str, Any]) -> Any:
        """`state.delete`: deletes the entry if there is one."""
        gone = self.entries.pop(params["key"], None)
        version = gone["version"] + 1 if gone else None
        return {"key": params["key"], "deleted": gone is not None, "version": version}

    def on_state_list(self, params: dict[str, Any]) -> Any:
        """`state.list`: a page of the entries that begin with the prefix, by key."""
        keys = sorted(key for key in self.entries if key.startswith(params["prefix"]))
        keys = [key for key in keys if key > params.get("after", "")]
        page = keys[: params["limit"]]
        after = page[-1] if len(page) < len(keys) else None
        return {"entries": [self.entries[key] for key in page], "next": after}

    def on_state_history(self, params: dict[str, Any]) -> Any:
        """`state.history`: a page of `history`, which all keys share."""
        before = params.get("before_seq", 2**63)
        changes = [change for change in self.history if change["seq"] < before]
        page = changes[: params["limit"]]
        return {"history": page, "next": page[-1]["seq"] if len(page) < len(changes) else None}

    # --- Locks ---

    def on_lock_acquire(self, params: dict[str, Any]) -> Any:
        """`lock.acquire`: the lock, or `LockHeld` if another asker has it."""
        there = self.locks.get(params["key"])
        if there and there["asker"] != params["asker"]:
            raise LockHeld("it is held", **_holder(there))
        if not there:
            self._tokens += 1
            there = {"key": params["key"], "token": self._tokens, "expires_at": LATER}
            there |= {"holder": params["holder"], "asker": params["asker"]}
            self.locks[params["key"]] = there
        return {name: there[name] for name in ("key", "token", "expires_at")}

    def _held(self, params: dict[str, Any]) -> dict[str, Any]:
        there = self.locks.get(params["key"])
        if there is None:
            raise NotFound(f"nobody holds the lock {params['key']!r}")
        if there["token"] != params["token"]:
            told = f"{params['key']!r} is held with another token"
            raise LockHeld(told, hint="wait for it: --wait 1m", **_holder(there))
        return there

    def on_lock_list(self, params: dict[str, Any]) -> Any:
        """`lock.list`: a page of the locks that begin with the prefix, by key."""
        keys = sorted(key for key in self.locks if key.startswith(params["prefix"]))
        keys = [key for key in keys if key > params.get("after", "")]
        page = keys[: params["limit"]]
        after = page[-1] if len(page) < len(keys) else None
        return {"locks": [lock_object(**self.locks[key]) for key in page], "next": after}

    def on_lock_extend(self, params: dict[str, Any]) -> Any:
        """`lock.extend`: the lock as it is, if the token fits."""
        there = self._held(params)
        return {name: there[name] for name in ("key", "token", "expires_at")}

    def on_lock_release(self, params: dict[str, Any]) -> Any:
        """`lock.release`: releases the lock if the token fits."""
        there = self._held(params)
        del self.locks[params["key"]]
        return {"key": there["key"], "token": there["token"]}

    # --- Events ---

    def on_event_send(self, params: dict[str, Any]) -> Any:
        """`event.send`: keeps the event unless its ttl is 0; resumes nothing."""
        kept_until = None if params.get("ttl_ms") == 0 else LATER
        given = {name: params.get(name) for name in ("payload", "correlation_key")}
        event = event_object(len(self.events) + 1, params["name"], **given, kept_until=kept_until)
        if kept_until:
            self.events.append(event)
        fields = ("id", "name", "correlation_key", "kept_until")
        return {name: event[name] for name in fields} | {"resumed": [], "reused": False}

    def on_event_list(self, params: dict[str, Any]) -> Any:
        """`event.list`: a page of the kept events that match, newest first."""
        events = list(reversed(self.events))
        for name in ("name", "correlation_key"):
            events = [event for event in events if params.get(name) in (None, event[name])]
        if "cursor" in params:
            events = events[[event["id"] for event in events].index(params["cursor"]) + 1 :]
        page = events[: params["limit"]]
        return {"events": page, "cursor": page[-1]["id"] if len(page) < len(events) else None}
