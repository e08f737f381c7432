"""shmr: a filesystem for a little fast storage and a lot of shingled storage.

The public library: whatever a command can do, a function here can do. Importing
it needs no trio; only `shmr.fuse` and `shmr.service` do.
"""

__version__ = "0.1.0"
