"""Jobs, each in its own process, and the runner that starts, monitors and stops them."""
