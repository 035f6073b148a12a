"""The URL of the database that has a journal: `postgresql://db-1,db-2/shop`."""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit


def masked(url: str) -> str:
    """`url` as it may be shown: without a password, and without options, which can have one."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    name = user.partition(":")[0]
    return urlunsplit(parts._replace(netloc=f"{name}{at}{hosts}", query=""))


def has_password(url: str) -> bool:
    """Does it contain a password?"""
    parts = urlsplit(url)
    return ":" in parts.netloc.rpartition("@")[0] or "password=" in parts.query


def hosts_of(url: str) -> list[str]:
    """The URL of each host that `url` names."""
    parts = urlsplit(url)
    user, at, hosts = parts.netloc.rpartition("@")
    return [urlunsplit(parts._replace(netloc=f"{user}{at}{host}")) for host in hosts.split(",")]
