"""The loop of an `async def` handler, which decides the same on each pass. It knows no daemon."""
