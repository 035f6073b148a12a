"""The daemon for tests of jobs: its own core, shell and worker code, in the process of the test,
with a journal in memory and a clock that only the test moves.

Owned here is what is different from the real thing and nothing else: where time and ids come from
(`bench`), that the worker is a thread (`worker`), that it can be made to die at a place
(`crashes`), which jobs there are (`jobs`), and how all of it is shown to a test (`fixture`). It
decides nothing, and has no replay of its own. Users meet it as the fixture `stackshift` of
`stackshift_jobs.testing`.
"""
