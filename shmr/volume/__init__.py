"""The filesystem without FUSE: synchronous, in one thread, each operation atomic.

What has to wait is handed out as a job whose `run` knows nothing of the volume.
"""
