"""The kernel's FUSE requests as calls of a volume.

`session.serve` is the one entry.
"""
