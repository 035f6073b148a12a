"""What the commands do: one file a family, named as the command is.

Each function takes the session and what was given, and returns the exit status. `catalogue` and
`table` say which function a command line comes to. Nothing here parses text, and nothing draws.
"""
