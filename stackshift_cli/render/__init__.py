"""Everything that draws. Rich is imported only here, and only when something is drawn.

Nothing here asks the daemon, decides an exit status or knows where values come from. The exception
is `live`, which draws while it follows a run.
"""
