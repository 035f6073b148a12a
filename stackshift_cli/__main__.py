"""`python -m stackshift_cli` is the command `stackshift`."""

import sys

from stackshift_cli import main

sys.exit(main())
