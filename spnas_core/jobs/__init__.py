"""What a job does in a process of its own, and the runner that starts, follows and ends it."""
