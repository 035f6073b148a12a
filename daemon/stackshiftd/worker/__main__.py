"""The entry point: `python -P -m stackshiftd.worker`, with `--fd N` from the daemon or `--check
PROJECT` from the command line."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--fd", fd]:
            from stackshiftd.worker.process import main

            main(int(fd))
        case ["--check", root]:
            from stackshiftd.worker.check import check

            sys.exit(check(Path(root)))
        case _:
            sys.exit("usage: python -m stackshiftd.worker --fd N | --check PROJECT")
