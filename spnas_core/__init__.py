"""The search, the detector and the jobs of spnas; knows nothing of Prefect (layout: docs/developing.md)."""
