"""`python -P -m stackshiftd.keeper`: keeps a worker for the daemon behind its standard streams."""

from __future__ import annotations

import sys

from stackshiftd.keeper.keeper import main

if __name__ == "__main__":
    sys.exit(main())
