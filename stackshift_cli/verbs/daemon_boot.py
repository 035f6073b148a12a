"""`daemon install|uninstall`: have the daemon started when the machine boots, or no longer."""

from __future__ import annotations

from stackshift_cli.arguments import Given
from stackshift_cli.daemon import boot
from stackshift_cli.daemon.session import Session
from stackshift_cli.errors import NotInstalled
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.verbs.daemon import stop_running
from stackshift_jobs.errors import NotFound


def install(session: Session, given: Given) -> int:
    """`daemon install`: install a service, or with `--print` print what would be installed. A
    daemon that is running is stopped first, since the service is to be the one that serves."""
    way = _best(session, given.flag("print"))
    if given.flag("print"):
        messages.data(safe_block(way.text()))
        session.say(f"for {way.kind}: {safe(way.place)}")
        return 0
    notes = way.install(lambda: _stop(session))
    if session.json:
        messages.data(messages.compact({"kind": way.kind, "place": way.place, "installed": True}))
    else:
        messages.data(safe(way.place))
        session.say(f"installed: {way.kind} starts the daemon of {safe(str(way.service.root))}")
    for note in notes:
        session.say(f"note: {safe(note)}")
    if way.kind == "crontab":
        session.say("hint: stackshift daemon start")
    return 0


def _stop(session: Session) -> None:
    pid = stop_running(session)
    if pid is not None:
        session.say(f"stopped stackshiftd (pid {pid})")


def uninstall(session: Session, _given: Given) -> int:
    """`daemon uninstall`: remove what starts the daemon at boot. The daemon keeps running; raises
    `NotFound` if nothing is installed."""
    way = boot.installed(session.project)
    if way is None:
        has_way = next(boot.ways(session.project), None) is not None
        raise NotFound(
            "nothing starts the daemon of this project at boot",
            hint="stackshift daemon install" if has_way else boot.NO_WAY_HINT,
        )
    way.uninstall()
    if session.json:
        messages.data(messages.compact({"kind": way.kind, "place": way.place, "installed": False}))
    else:
        messages.data(safe(way.place))
        session.say("removed; a daemon that is running keeps running")
    return 0


def _best(session: Session, is_print: bool) -> boot.Way:
    way = next(boot.ways(session.project), None)
    if way is not None:
        return way
    if is_print:  # For another machine, perhaps: an image that is being built.
        session.say(f"note: {boot.NO_WAY}; this is a unit for one that has systemd")
        return boot.Systemd(boot.service_of(session.project))
    raise NotInstalled(boot.NO_WAY, hint=boot.NO_WAY_HINT)


def safe_block(text: str) -> str:
    """`text` of several lines for the terminal, without its last line end."""
    from stackshift_cli.output.safe_text import safe_lines

    return safe_lines(text).rstrip("\n")
