"""The entry point: `python -P -m stackshiftd.worker`, with descriptors from the daemon or a keeper
(`--fd N OUT ERR LOG [LEASE]`), with `--stdio [--project DIR]` on another host, or with
`--check PROJECT [MODULES]` from the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--fd", fd, out, err, log, *lease]:
            from stackshiftd.worker.process import Outputs, main

            main(int(fd), Outputs(int(out), int(err), int(log)), *map(int, lease))
        case ["--stdio", *project]:
            keeper = [sys.executable, "-P", "-m", "stackshiftd.keeper", *project]
            os.execv(sys.executable, keeper)
        case ["--check", root, *deadly]:
            from stackshiftd.worker.loading.check import check

            sys.exit(check(Path(root), *deadly))
        case _:
            sys.exit(
                "usage: python -m stackshiftd.worker --fd SOCKET OUT ERR LOG [LEASE]"
                " | --stdio [--project DIR] | --check PROJECT [MODULES]"
            )
