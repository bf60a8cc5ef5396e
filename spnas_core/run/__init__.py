"""One run: its plan, its five stages, the record of each, and the replay that tells what it has done and will do."""
