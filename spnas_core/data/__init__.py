"""Data sets in any layout, or a folder per class, at any fsspec URL, and their batches: numpy and Pillow only."""
