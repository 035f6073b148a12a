"""What is shown of runs: the run object, its steps, where it is found."""
