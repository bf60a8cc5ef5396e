"""Data of semantic segmentation: images with masks, in any layout, their batches and made images."""
