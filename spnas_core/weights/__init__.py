"""Files of weights: what torchvision and this program save, read without executing anything."""
