"""The bytes between client and daemon: frames, sockets, connections, retransmission."""
