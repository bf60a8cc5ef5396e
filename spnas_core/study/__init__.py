"""Studies: methods compared with equal training under the same seeds, and how well the short score predicts the long one."""
