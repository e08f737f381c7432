"""`shmr drive` and `shmr redundancy`: who belongs to a pool, fragments written anew elsewhere."""
