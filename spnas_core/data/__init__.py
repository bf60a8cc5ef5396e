"""Data sets in the layout of COCO, Pascal VOC, YOLO or a folder per class, at any fsspec URL, and their batches: numpy and Pillow only."""
