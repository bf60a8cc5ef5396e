"""Cost, progress and failures of runs, and the contents of their store."""
