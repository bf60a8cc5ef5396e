"""What a run costs, how far it is, why it fails, and what its store holds."""
