"""The protocol between daemon and keeper, the far end of a pipe to another host: one JSON object
per line, among the lines of `frames`, which the keeper passes on to the worker that it keeps.

From the daemon: `Open` first, then a `Hello` for the worker; `CodePart` frames if the keeper asks
for code; a `Pulse` every `PULSE_SECONDS`. From the keeper: `Opened` or `Refused`, `WantsCode`,
`Prepares`, `Started` with the worker's process, an `Alive` for each `Pulse`, and `Ended` when the
worker has ended. A keeper that is to end says `Leaves`, and goes on until its worker has handed
back its runs; a daemon that has no more use for one says `Close`, or closes the pipe.

Either side gives up the other when it has been silent for long: the keeper after `SILENCE_SECONDS`
of its `Open`, the daemon a little later, so that nothing executes there any more when a run is
handed out again.
"""

from __future__ import annotations

from typing import Final

import msgspec

from stackshiftd.worker.frames import Frame

HOST_PROTOCOL: Final = 2
"""The version of this protocol and of `frames`: both ends must speak the same."""
PULSE_SECONDS: Final = 2.0
SILENCE_SECONDS: Final = 15.0
"""After so long without a word from the daemon, a keeper ends its worker and itself."""
GIVEN_UP_SECONDS: Final = 17.0
"""After so long without a word from a keeper, the daemon gives up its worker."""
PART_BYTES: Final = 1 << 20
"""The most of an archive in one `CodePart`."""
TAG: Final = b'{"type":"Host.'
"""How each of these frames begins, and no other."""


class HostFrame(Frame, frozen=True, tag=lambda name: f"Host.{name}"):
    """Base of these frames."""


# --- From the daemon -----------------------------------------------------------------------


class Open(HostFrame, frozen=True):
    """Everything that the keeper needs to know before it can start a worker.

    `worker` is the worker's name, `project` that of the project. With `directory` the code is what
    lies there; with `digest` it is the archive with this SHA-256, in whose directory `prepare` runs
    once; with neither, the keeper was started for a project that is there, and the settings there
    count. `environment` are the variables that the settings add to those of the account there,
    `path` is `[workers] path`, and `silence_seconds` is how long the daemon may be silent.
    """

    protocol: int
    version: str
    worker: str
    project: str
    directory: str = ""
    digest: str = ""
    prepare: tuple[str, ...] = ()
    environment: dict[str, str] = {}  # noqa: RUF012  # a default of msgspec's, copied
    path: tuple[str, ...] = ()
    grace_ms: int = 10_000
    silence_seconds: float = SILENCE_SECONDS


class CodePart(HostFrame, frozen=True):
    """The next bytes of the archive that the keeper asked for; `last` are its last ones."""

    data: bytes
    last: bool = False


class Pulse(HostFrame, frozen=True):
    """The daemon is there. The keeper answers with the `number`."""

    number: int


class Close(HostFrame, frozen=True):
    """The daemon has no more use for the worker: end it and what it has started, then the pipe."""


# --- From the keeper -----------------------------------------------------------------------


class Opened(HostFrame, frozen=True):
    """The keeper is there: its protocol and version, the name of its host, its interpreter."""

    protocol: int
    version: str
    name: str
    python: str


class Refused(HostFrame, frozen=True):
    """No worker can be started: `why` in one sentence. `kind` is `protocol`, `code` or
    `prepare`."""

    kind: str
    why: str


class WantsCode(HostFrame, frozen=True):
    """The archive with this digest is not there yet."""

    digest: str


class Prepares(HostFrame, frozen=True):
    """The host prepares the code before its first use."""


class Started(HostFrame, frozen=True):
    """The worker runs, with this process id, in this directory."""

    pid: int
    directory: str


class Alive(HostFrame, frozen=True):
    """The answer to the `Pulse` with the `number`: the CPU time that the worker has used, and its
    resident memory; both 0 if there is no worker."""

    number: int
    cpu_seconds: float = 0.0
    resident_bytes: int = 0


class Leaves(HostFrame, frozen=True):
    """The keeper was asked to end: its worker is to get no more runs, and to hand back those that
    it has."""


class Ended(HostFrame, frozen=True):
    """The worker has ended with `status` (below 0: a signal), and what it started has been ended.
    `words` is what it had written to each stream and not stored."""

    status: int
    words: dict[str, bytes] = {}  # noqa: RUF012


ToKeeper = Open | CodePart | Pulse | Close
FromKeeper = Opened | Refused | WantsCode | Prepares | Started | Alive | Leaves | Ended

decode_from_keeper: Final = msgspec.json.Decoder(FromKeeper).decode
decode_for_keeper: Final = msgspec.json.Decoder(ToKeeper).decode
