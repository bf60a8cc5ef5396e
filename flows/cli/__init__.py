"""All that a person types: the command `spnas`."""
