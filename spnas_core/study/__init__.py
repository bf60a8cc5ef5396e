"""Studies: comparison of methods with equal training and seeds, and prediction of the score of long training by that of short training."""
