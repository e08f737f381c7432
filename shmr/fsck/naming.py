"""What files are called: a path for each inode that a sentence is about."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from shmr.catalog.reading import Reading
from shmr.errors import IntegrityError
from shmr.format.rows import ROOT
from shmr.fsck.findings import Finding

_DEPTH_MAX = 4096


def names_of(reading: Reading, inodes: Collection[int]) -> dict[int, str]:
    """A path from the top for each of these inodes that has one: of several, any.

    Reads all names once, and the directories above those that were found. Where rows are damaged
    or directories go in circles, the paths of what lies below are left out.
    """
    wanted = set(inodes)
    placed: dict[int, tuple[int, bytes]] = {}
    try:
        for directory, name, inode in reading.dentries():
            if inode in wanted:
                wanted.discard(inode)
                placed[inode] = directory, name
                if not wanted:
                    break
    except IntegrityError:
        pass  # what is damaged is told of elsewhere
    known = {ROOT: b""}
    found = {}
    for inode, (directory, name) in placed.items():
        above = _above(reading, directory, known)
        if above is not None:
            found[inode] = os.fsdecode(above + b"/" + name)
    return found


def _above(reading: Reading, directory: int, known: dict[int, bytes]) -> bytes | None:
    """The path of a directory, climbing from it to one whose path is known."""
    climbed: list[tuple[int, bytes]] = []
    try:
        while directory not in known:
            inode = reading.inode(directory)
            if inode is None or len(climbed) > _DEPTH_MAX:
                return None
            entries = reading.entries(inode.parent)
            name = next((name for name, dentry in entries if dentry.inode == directory), None)
            if name is None:
                return None
            climbed.append((directory, name))
            directory = inode.parent
    except IntegrityError:
        return None
    path = known[directory]
    for number, name in reversed(climbed):
        path = known[number] = path + b"/" + name
    return path


def named(reading: Reading, findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings, each with the path of its inode, in its message too."""
    findings = list(findings)
    names = names_of(reading, {f.where.inode for f in findings if f.where.inode is not None})
    for finding in findings:
        inode = finding.where.inode
        if inode is None:
            yield finding
            continue
        path = names.get(inode)
        message = f"{path or f'inode {inode}'}: {finding.message}"
        yield replace(finding, message=message, where=replace(finding.where, path=path))
