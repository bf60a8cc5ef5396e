"""Faults of a data set: of its annotations, boxes, images and anchors; numpy and Pillow only."""
