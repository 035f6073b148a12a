"""The shell: everything that touches sockets, processes, clocks. It acts; the core decides."""
