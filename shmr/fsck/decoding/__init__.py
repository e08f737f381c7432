"""Files out of drives, and nothing else."""
