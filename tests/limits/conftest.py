"""The same fixture as the tests of crashes: a filesystem for one test alone."""

from tests.crash.conftest import make_filesystem

__all__ = ["make_filesystem"]
