"""Trackers: servers of other programs, such as MLflow, that show a search while it runs; all that they are told follows from the store."""
