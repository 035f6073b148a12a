"""What the commands do: one file per group of commands, with the name of the group.

Each function takes the session and the values given, and returns the exit status. The table of
commands (`spec`, `catalogue`) names the function of each. Nothing here parses text or draws.
"""
