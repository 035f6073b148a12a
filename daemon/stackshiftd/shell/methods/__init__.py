"""The methods of the protocol, a file a subject."""
