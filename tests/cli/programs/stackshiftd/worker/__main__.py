"""`python -m stackshiftd.worker --check ROOT`: prints the text that the test wants."""

import os
import sys

print("talk of a module", file=sys.stderr)
print(os.environ.get("FAKE_CHECK", ""))
sys.exit(int(os.environ.get("FAKE_CHECK_STATUS", "0")))
