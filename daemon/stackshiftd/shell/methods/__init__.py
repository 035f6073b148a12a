"""The methods of the protocol, one file per subject."""
