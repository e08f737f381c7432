"""The tests of shmr. A package, so that tests/posix is not taken for Python's module `posix`."""
