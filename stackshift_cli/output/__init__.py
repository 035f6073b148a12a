"""What is printed, and where: messages, safe text, streams, the terminal."""
