"""Everything that draws. Only here is Rich imported, and only when something is drawn.

Nothing here asks the daemon, decides an exit status or knows where values come from, but for
`live`, which draws while it follows.
"""
