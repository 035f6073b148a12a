"""Job modules, imported and checked as a worker finds them."""
