"""Files that an export copies into its folder. They know nothing of this program, and must run without it."""
