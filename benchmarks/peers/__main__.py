"""StackShift beside its peers, on this machine, in turns.

    python benchmarks/peers [--rounds 5] [--only restate,dbos] [--svg DIR] [--json FILE]

In each round every contender is started, warmed, measured and ended, so that the others never run
beside it, and what the machine does meanwhile hits all of them alike. A contender whose measuring
the machine disturbed is measured again, up to five times in a round; a round in which that did not
help is no result, and another one is made, up to three times as many. Compare ratios, not figures
of two hours.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from contenders import CONTENDERS, Contender, Driver, NotInstalled, Services
from machine import Machine, description
from report import TITLES, Measures, drawing, table

IN_FLIGHT = 64
WARM_RUNS = 64
ENOUGH_SECONDS = 0.8
"""Of a load; where it takes less, it is made larger."""
SINGLES = 40
TRIES = 3
"""Rounds that are begun for each one that makes a result."""
MEASURED = 5
"""Times that a contender is measured in a round until the machine is quiet."""


class Comparison:
    """What was measured so far."""

    def __init__(self, services: Services, contenders: list[Contender]) -> None:
        self._services = services
        self._machine = Machine()
        self.contenders = contenders
        self.taken: dict[str, list[Measures]] = {each.name: [] for each in contenders}
        self.facts: dict[str, str] = {}
        self.noisy: list[dict[str, Any]] = []
        self._runs: dict[tuple[str, str], int] = {}

    def round(self) -> bool:
        """Measure all once; was the machine quiet?"""
        made: dict[str, Measures] = {}
        for contender in list(self.contenders):
            try:
                measures = self._undisturbed(contender)
            except (NotInstalled, RuntimeError) as missing:
                print(f"not compared: {contender.name}: {missing}", file=sys.stderr)
                self.contenders.remove(contender)
                self.taken.pop(contender.name)
                continue
            if measures is None:
                return False
            made[contender.name] = measures
        for name, measures in made.items():
            self.taken[name].append(measures)
        return True

    def _undisturbed(self, contender: Contender) -> Measures | None:
        """What a contender does on a quiet machine; `None` if the machine is not."""
        for _ in range(MEASURED):
            with self._machine.watched() as noise:
                measures = self._measured(contender)
            if noise.is_quiet:
                return measures
            print(f"noisy: {contender.name}: {noise}", file=sys.stderr)
            self.noisy.append({"contender": contender.name, "noise": str(noise), **measures})
        return None

    def _measured(self, contender: Contender) -> Measures:
        made: Measures = {}
        with Driver(contender, self._services) as driver:
            facts = driver.facts
            self.facts[contender.name] = f"{facts['durability']} ({facts['version']})"
            for work, each in (("steps", 5), ("jobs", 1)):
                rate = self._rate(contender, driver, work)
                if rate is not None:
                    made[work] = each * rate
            for work in ("step", "result"):
                if took := driver.ask(work, runs=SINGLES).get("took"):
                    made[work] = statistics.median(took) * 1000
                    if work == "result":
                        made["result99"] = statistics.quantiles(took, n=100)[98] * 1000
            made["memory"] = driver.ask("memory")["megabytes"]
        return made

    def _rate(self, contender: Contender, driver: Driver, work: str) -> float | None:
        """Runs a second, of as many as take long enough to be measured."""
        key = (contender.name, work)
        runs = self._runs.get(key, WARM_RUNS)
        driver.ask(work, runs=WARM_RUNS, in_flight=IN_FLIGHT)
        while True:
            seconds = driver.ask(work, runs=runs, in_flight=IN_FLIGHT).get("seconds")
            if seconds is None:
                return None
            self._runs[key] = runs
            if seconds >= ENOUGH_SECONDS / 2:
                return float(runs / seconds)
            runs = int(runs * min(8.0, ENOUGH_SECONDS / seconds))


def main() -> int:
    """Compare, and print the table; 1 if the machine was too noisy for a result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="quiet rounds that make a result")
    parser.add_argument("--only", default="", help="words of names, with commas between them")
    parser.add_argument("--svg", type=Path, help="where drawings go")
    parser.add_argument("--json", type=Path, help="where each round's figures go")
    default = Path(__file__).parents[2] / ".venv" / "peers"
    parser.add_argument("--environments", type=Path, default=default, help="where peers live")
    given = parser.parse_args()
    given.environments.mkdir(parents=True, exist_ok=True)
    words = ["stackshift", *filter(None, given.only.lower().split(","))]
    chosen = [
        each
        for each in CONTENDERS
        if not given.only or any(word in each.name.lower() for word in words)
    ]
    services = Services(given.environments)
    try:
        comparison = Comparison(services, chosen)
        quiet = 0
        for _ in range(TRIES * given.rounds):
            quiet += comparison.round()
            if quiet == given.rounds:
                break
    finally:
        services.close()
    print(f"{description()}; {quiet} rounds", end="\n\n")
    if given.json:
        rounds = {"quiet": comparison.taken, "noisy": comparison.noisy}
        given.json.write_text(json.dumps(rounds, indent=1))
    if quiet < given.rounds:
        print(f"no result: only {quiet} of {TRIES * given.rounds} rounds were quiet")
        return 1
    print(table(comparison.taken, comparison.facts))
    if given.svg:
        given.svg.mkdir(parents=True, exist_ok=True)
        for measure in TITLES:
            (given.svg / f"peers-{measure}.svg").write_text(drawing(comparison.taken, measure))
    return 0


if __name__ == "__main__":
    sys.exit(main())
