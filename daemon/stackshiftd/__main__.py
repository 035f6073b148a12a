"""`python -m stackshiftd`."""

import sys

from stackshiftd.app import main

if __name__ == "__main__":
    sys.exit(main())
