"""Command line: the command `spnas`."""
