"""What is wrong, from metadata alone: the catalog against itself, and against the drives."""
