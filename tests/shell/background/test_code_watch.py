"""Of what is saved in a watched project, people hear."""

from __future__ import annotations

import asyncio
from pathlib import Path

from helpers.deadline import SECONDS
from stackshift_jobs.project.config import load_config
from stackshiftd.shell.background.code_watch import CodeWatch
from stackshiftd.shell.code_files import LoadedCode
from stackshiftd.worker.code_files import read_sources


def test_code_that_a_worker_has_loaded_by_itself_is_loaded_again_and_told(tmp_path: Path) -> None:
    """One that begins after a save, as the second worker of a daemon may, has the new code; then
    nothing that is on the disk is not loaded, but nobody was told."""
    (tmp_path / "stackshift.toml").write_text("")
    module = tmp_path / "jobs" / "hello.py"
    module.parent.mkdir()
    code = LoadedCode(load_config(tmp_path))
    for text in ("A = 1\n", "A = 2  # saved\n"):
        module.write_text(text)
        code.imported(read_sources(tmp_path, ["jobs"]), [])
    assert (code.changed(), code.untold()) == ([], ["jobs/hello.py"])

    async def watched() -> None:
        reloaded: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def reload() -> None:
            code.tell()
            reloaded.set_result(None)  # A second one would fail.

        watching = asyncio.create_task(CodeWatch(code, reload, lambda: None).run())
        await asyncio.wait_for(reloaded, SECONDS)
        watching.cancel()
        await asyncio.wait([watching])
        assert watching.cancelled()

    asyncio.run(watched())
    assert code.untold() == []
