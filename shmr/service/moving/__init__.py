"""`shmr-compact`: which files move, what that would take, and moving them."""
