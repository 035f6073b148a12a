"""What each request asks and what its answer means, written once for all clients."""
