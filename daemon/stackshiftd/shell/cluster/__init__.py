"""The daemons of one project on several machines: who they are, and how they talk."""
