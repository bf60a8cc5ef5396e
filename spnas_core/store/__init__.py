"""Store on fsspec: artifacts with manifests, claims, checkpoints, and retries of store errors."""
