"""The worker process: imports job modules and executes handlers. Only it runs the user's code."""
