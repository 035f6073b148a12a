"""What runs inside a handler: `ctx`, its steps and waits, and the rules of replay."""
