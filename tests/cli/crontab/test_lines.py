"""Crontabs are read as cron reads them: entries, `%`, variables, comments, users."""

from __future__ import annotations

import pytest

from stackshift_cli.crontab.fields import refusal
from stackshift_cli.crontab.lines import CronEntry, LeftOut, may_name_users, parse, percent
from stackshift_cli.crontab.names import name_for


def entries(text: str, *, names_users: bool = False) -> list[CronEntry]:
    """The entries of a crontab in which nothing is wrong."""
    found = list(parse(text, names_users=names_users))
    assert all(isinstance(each, CronEntry) for each in found), found
    return [each for each in found if isinstance(each, CronEntry)]


@pytest.mark.parametrize(
    ("text", "command", "stdin"),
    [
        ("date +\\%F", "date +%F", None),
        ("cat%one%two", "cat", "one\ntwo\n"),
        ("cat%", "cat", ""),
        ("cat%100\\%%end%", "cat", "100%\nend\n"),
        ("echo '\\n' \\\\ \\x", "echo '\\n' \\\\ \\x", None),
        ("echo \\\\%in", "echo \\\\", "in\n"),
        ("plain", "plain", None),
    ],
)
def test_percent_ends_the_command_unless_it_is_escaped(
    text: str, command: str, stdin: str | None
) -> None:
    """What follows is standard input, in which `%` ends lines, and whose last line has an end."""
    assert percent(text) == (command, stdin)


def test_variables_hold_for_the_entries_below_them() -> None:
    """In quotes or not, with blanks around `=`, also empty; the last one wins."""
    text = """A = "x y"
0 5 * * * first
 'B'='it is'
MAILTO=
A=z
@daily second A=b
"""
    first, second = entries(text)
    assert first.variables == {"A": "x y"}
    assert second.variables == {"A": "z", "B": "it is", "MAILTO": ""}
    assert (second.schedule, second.command) == ("@daily", "second A=b")


def test_comments_stay_with_the_entry_below_them() -> None:
    """Those below the last one stay with that; `#` in a command begins no comment."""
    text = """# of the first
#  also

0 5 * * * first # not a comment
  # of the second
0 6 * * * second
# at the end
"""
    first, second = entries(text)
    assert first.note == "# of the first\n#  also"
    assert first.command == "first # not a comment"
    assert second.note == "# of the second\n# at the end"


def test_fields_may_be_apart_by_any_blanks_and_begin_with_a_dash() -> None:
    """The dash (of some crons) is about their log alone."""
    (entry,) = entries("\t-*/5\t0-6/2 1,15  jan-mar\tMon-Fri   run  it  ")
    assert entry.schedule == "*/5 0-6/2 1,15 jan-mar Mon-Fri"
    assert entry.command == "run  it  "


def test_system_crontab_has_a_user_before_the_command() -> None:
    """As in `/etc/crontab`; whether a file is one shows in all of its entries."""
    text = "17 * * * * root cd / && run-parts\n@daily www-data /srv/x\n"
    first, second = entries(text, names_users=True)
    assert (first.user, first.command) == ("root", "cd / && run-parts")
    assert (second.user, second.command) == ("www-data", "/srv/x")
    users = frozenset(("root", "www-data"))
    assert may_name_users(text, users)
    assert not may_name_users(text + "0 5 * * * backup\n", users)
    assert not may_name_users("# nothing\n", users)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("5/15 * * * * x", "a step needs a range or *"),
        ("60 * * * * x", "'60' is not between 0 and 59"),
        ("* * 0 * * x", "'0' is not between 1 and 31"),
        ("* * * * 8 x", "'8' is not between 0 and 7"),
        ("* * * mon * x", "'mon' is not between 1 and 12"),
        ("* * * monday * x", "'monday' is not between 1 and 12"),
        ("* * * * fri-sun x", "a range must ascend"),
        ("*/0 * * * * x", "'0' cannot be a step"),
        ("* * L * * x", "'L' is not between 1 and 31"),
        ("* * * * 5#2 x", "is not a number, a range or *"),
        ("* * ? * * x", "is not a number, a range or *"),
        ("1,,2 * * * * x", "is not a number, a range or *"),
        ("* * * * *", "no command"),
        ("* * * * x", "'x' is not between 0 and 7"),
        ("* * * x", "no five fields"),
        ("@sometimes x", "cron does not know @sometimes"),
        ("@daily", "no command"),
        ("nonsense", "no five fields"),
    ],
)
def test_what_cron_refuses_is_left_out_with_the_reason(line: str, why: str) -> None:
    """The other entries are read all the same."""
    bad, good = parse(f"{line}\n0 5 * * * good\n", names_users=False)
    assert isinstance(bad, LeftOut)
    assert why in bad.why
    assert (bad.line, bad.text) == (1, line)
    assert isinstance(good, CronEntry)


@pytest.mark.parametrize(
    "fields",
    [
        "* * * * *",
        "*/90 0 1 1 0",
        "0-59/60 23 31 DEC sun",
        "*,5 1,2-4,*/6 1-31 1-12/3 0-7",
        "05 09 * * 07",
    ],
)
def test_fields_that_cron_takes(fields: str) -> None:
    """Large steps, stars in lists, leading zeros, and both Sundays."""
    assert refusal(fields.split()) == ""


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("/usr/bin/backup.sh --all >> /var/log/x 2>&1", "backup.sh"),
        ("cd /srv/shop && ./bin/sync", "sync"),
        ("test -x /usr/sbin/anacron || run-parts --report /etc/cron.daily", "cron.daily"),
        ("FOO=1 nice -n 19 /usr/bin/python3 -u /opt/report.py", "report.py"),
        ("flock -n /tmp/x.lock php artisan schedule:run", "artisan"),
        ('[ "$(date +%d)" = 01 ] && /srv/month-end.sh', "month-end.sh"),
        ("/opt/größe", "gr-e"),
        ("%%%", "job"),
    ],
)
def test_schedule_is_called_like_its_program(command: str, name: str) -> None:
    """As far as one can tell; a second one has a number."""
    assert name_for(command, ()) == name
    assert name_for(command, (name,)) == f"{name}-2"
    assert name_for(command, (name, f"{name}-2")) == f"{name}-3"
