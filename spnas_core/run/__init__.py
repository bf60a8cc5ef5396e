"""One run: its plan, its five stages, their records, and its replay."""
