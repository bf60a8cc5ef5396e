"""What Ascend devices need of the compiled graphs, proven without one: operators, dtypes and shapes, by MindSpore's own records."""
