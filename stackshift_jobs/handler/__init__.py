"""What a handler uses: `ctx`, its steps and waits, and the rules of replay."""
