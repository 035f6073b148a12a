"""The daemon for tests of jobs: the real core, shell and worker code, in the process of the test,
with a journal in memory and a clock that only the test moves.

Owns only what differs from a real daemon: where time and ids come from (`bench`), that the worker
is a thread (`worker`) that can be made to die at a given place (`crashes`), which jobs exist
(`jobs`), and the interface for tests (`fixture`). It decides nothing, and has no replay of its own.
Users know it as the fixture `stackshift` of `stackshift_jobs.testing`.
"""
