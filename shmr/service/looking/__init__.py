"""`shmr inspect`: what is where, and what the next shift would do. Changes nothing."""
