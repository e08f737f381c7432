"""The log: segments on drives. Append, read and verify, walk, claim and discard.

Knows frames and drives; knows nothing of files and directories.
"""
