"""The daemon's side of the socket: connections, the router of requests, record feeds."""
