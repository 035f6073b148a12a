"""`hosts list|check`: the other machines on which workers run."""

from __future__ import annotations

from typing import Any, Final

from stackshift_cli.arguments import Given
from stackshift_cli.daemon.session import Session
from stackshift_cli.output import messages
from stackshift_cli.output.safe_text import safe
from stackshift_cli.output.terminal import draws
from stackshift_cli.render import tsv

_PROBLEM_STATUS: Final = 78


def list_(session: Session, _given: Given) -> int:
    """`hosts list`: list the hosts that the daemon places workers on, and how they are."""
    hosts = session.call("leader.status")["hosts"]
    if session.json:
        messages.data(messages.compact(hosts))
    elif draws(session.options):
        from stackshift_cli.render.lists import print_hosts

        print_hosts(session.options, hosts)
    else:
        for host in hosts:
            workers = ",".join(host["workers"])
            messages.data(tsv.columns({**host, "workers": workers}, tsv.HOST_COLUMNS))
    if not hosts:
        _say_none(session)
    return 0


def check(session: Session, given: Given) -> int:
    """`hosts check [HOST...]`: start a worker on each host, have it import the modules, and end it;
    78 if that fails on any."""
    from stackshift_cli.flows.doctor.hosts import checked

    found = checked(session, given.texts("host"))
    if session.json:
        messages.data(messages.compact(found))
    elif draws(session.options):
        from stackshift_cli.render.lists import print_host_checks

        print_host_checks(session.options, found)
    else:
        for host in found:
            messages.data(tsv.columns(_shown(host), tsv.HOST_CHECK_COLUMNS))
    if not found:
        _say_none(session)
    for host in found:
        for failed in host["failed_modules"]:
            session.say(f"{host['name']}: {safe(messages.failed_module(failed))}")
    return 0 if all(host["ok"] for host in found) else _PROBLEM_STATUS


def _say_none(session: Session) -> None:
    if not session.json:
        session.say("no other hosts: workers run on this machine")
        session.say("hint: man stackshift.toml, at [hosts.NAME]")


def _shown(host: dict[str, Any]) -> dict[str, Any]:
    return {
        **host,
        "status": "ok" if host["ok"] else "problem",
        "digest": (host["digest"] or "")[:7],
    }
