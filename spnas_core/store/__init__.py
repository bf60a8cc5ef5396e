"""The store on fsspec: artifacts with manifests, claims, checkpoints, and the retries around them."""
