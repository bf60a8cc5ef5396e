"""What is wrong with a data set: its annotations, boxes, images and anchors; numpy and Pillow only."""
