"""Workers on other hosts, which commands such as `ssh` reach."""
