"""Data sets in COCO layout or as a folder per class, from any fsspec URL, and the batches made of them: numpy and Pillow only."""
