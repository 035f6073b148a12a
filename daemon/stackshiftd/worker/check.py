"""`stackshift jobs check`: import every job module once, here, and say what came of it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from stackshift_jobs.errors import StackshiftError
from stackshift_jobs.project.config import load_config
from stackshiftd.worker import loader


def check(root: Path) -> int:
    """Print one object `{modules: [{module, file, jobs, schedules, error}]}`; 78 if any module
    failed."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what modules print at import is talk, not data
    try:
        jobs = list(load_config(root).project.jobs)
    except StackshiftError as bad:
        print(json.dumps({"error": bad.as_json()}), file=out)
        return bad.exit_status
    os.chdir(root)
    sys.path.insert(0, str(root))
    facts, failed = loader.load(root, jobs)
    errors = {each.module: each for each in failed}
    found = {source.module: str(source.file) for source in loader.sources(root, jobs)}
    modules = [
        {
            "module": module,
            "file": found.get(module, module),
            "jobs": sorted(each.name for each in facts if each.module == module),
            "schedules": sorted(
                each.name for each in facts if each.module == module and each.schedule
            ),
            "error": None
            if module not in errors
            else {
                "type": errors[module].type,
                "message": errors[module].message,
                "file": errors[module].file,
                "line": errors[module].line,
            },
        }
        for module in [*found, *(name for name in errors if name not in found)]
    ]
    print(json.dumps({"modules": modules}), file=out)
    out.flush()
    return 78 if failed else 0
