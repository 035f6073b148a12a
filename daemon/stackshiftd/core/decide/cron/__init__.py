"""When schedules are due, also where clocks change, and which lines mean something else."""
