"""The daemon's side of the socket: connections, the request router, record feeds."""
