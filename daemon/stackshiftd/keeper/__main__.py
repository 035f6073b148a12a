"""`python -P -m stackshiftd.keeper [--project DIR]`: keeps a worker for the daemon behind its
standard streams."""

from __future__ import annotations

import sys
from pathlib import Path

from stackshift_jobs.errors import StackshiftError
from stackshiftd.keeper.keeper import REFUSED_STATUS, main

if __name__ == "__main__":
    given = sys.argv[1:]
    try:
        sys.exit(main(Path(given[1]) if given[:1] == ["--project"] else None))
    except StackshiftError as error:
        print(f"stackshift: {error}", file=sys.stderr)
        sys.exit(REFUSED_STATUS)
