"""Drives: the one seam to the operating system, and the directory that stands for a disk."""
