"""What each request asks for and what its reply means, written once for all clients."""
