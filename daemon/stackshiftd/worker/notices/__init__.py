"""Messages about alerts: what they say, and how they are delivered."""
