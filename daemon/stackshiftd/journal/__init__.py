"""The journal: the log of everything, on files or in memory, behind the contract in `interface`."""
