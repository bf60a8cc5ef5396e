"""The commands of `spnas`, by subject."""
