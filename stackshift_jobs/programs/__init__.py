"""Programs: starting them, passing on what they print, and ending all that they have started."""
