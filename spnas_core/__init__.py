"""The search, the detector and the jobs of spnas; knows nothing of Prefect (see docs in README, section Layout)."""
