"""Patterns of paths: `*`, `?` and `[...]` inside one name, `**` for any number of directories.

Takes time in proportion to pattern times path at most, whatever they are.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

_ANY = "**"


def matches(path: str, pattern: str) -> bool:
    """Does all of `path` match? Neither begins with a slash; `**` at the end is never nothing."""
    parts = pattern.split("/")
    if parts[-1] == _ANY:
        parts.append("*")
    names = path.split("/")
    at_name = at_part = 0
    resume: tuple[int, int] | None = None
    # Only the last `**` has to be tried again: what stands before it took as little as it could.
    while at_name < len(names):
        if at_part < len(parts) and parts[at_part] == _ANY:
            at_part += 1
            resume = at_name, at_part
        elif at_part < len(parts) and fnmatchcase(names[at_name], parts[at_part]):
            at_name += 1
            at_part += 1
        elif resume is not None:
            at_name, at_part = resume[0] + 1, resume[1]
            resume = at_name, at_part
        else:
            return False
    return at_part == len(parts)
