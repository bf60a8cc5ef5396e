"""Weights: inheritance, checkpoint files of torchvision and of this program (read without executing code), and model folders."""
