"""The commands of `spnas`, by what they are about."""
