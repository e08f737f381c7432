"""The door to the kernel: FUSE requests become calls of a volume, and its answers replies.

`session.serve` is the one entry; nothing above this package needs to know pyfuse3.
"""
