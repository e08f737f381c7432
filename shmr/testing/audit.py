"""Every rule that a catalog must keep, asked of an open volume: what a tree does not show.

A tree can be right while the catalog behind it rots: an inode that no name leads to, extents of a
file that is gone, counts that drifted. For tests; `shmr-fsck` has checks of its own.
"""

from __future__ import annotations

import stat
from collections import Counter
from typing import Any

from shmr.format.records import Stream
from shmr.format.rows import (
    ROOT,
    Inode,
    Table,
    decode_cookie,
    decode_dentry,
    decode_extent,
    decode_inode,
    decode_reap,
    key_pair,
    split_key,
    split_pair,
)


def audit(volume: Any) -> list[str]:
    """What is wrong, a line each; empty if all is well. The volume must have nothing open."""
    catalog = volume.catalog
    inodes = {
        split_key(key): decode_inode(split_key(key), value)
        for key, value in catalog.scan(Table.INODE, b"")
    }
    return [
        *_names(catalog, inodes),
        *_extents(volume, inodes),
        *(f"orphan {split_key(key)}" for key, _ in catalog.scan(Table.ORPHAN, b"")),
        *(
            f"xattr of inode {split_key(key)}, which is missing"
            for key, _ in catalog.scan(Table.XATTR, b"")
            if split_key(key) not in inodes
        ),
    ]


def _names(catalog: Any, inodes: dict[int, Inode]) -> list[str]:
    wrong = []
    named: Counter[int] = Counter()
    entries: Counter[int] = Counter()
    below: Counter[int] = Counter()
    cookies = {}
    for key, value in catalog.scan(Table.DENTRY, b""):
        directory, name, dentry = split_key(key), key[8:], decode_dentry(value)
        inode = inodes.get(dentry.inode)
        named[dentry.inode] += 1
        entries[directory] += 1
        cookies[key_pair(directory, dentry.cookie)] = (name, dentry.inode, dentry.kind)
        if inode is None or stat.S_IFMT(inode.mode) != dentry.kind:
            wrong.append(f"{name!r} in {directory}: inode {dentry.inode} is {inode}")
        elif stat.S_ISDIR(inode.mode):
            below[directory] += 1
            if inode.parent != directory:
                wrong.append(f"directory {inode.number}: parent {inode.parent}, not {directory}")
        if directory not in inodes or dentry.cookie >= inodes[directory].next_cookie:
            wrong.append(f"{name!r} in {directory}: {dentry}, in {inodes.get(directory)}")
    found = {key: tuple(decode_cookie(v)) for key, v in catalog.scan(Table.COOKIE, b"")}
    if found != cookies:
        wrong.append(f"cookies are {found}, expected {cookies}")
    for number, inode in inodes.items():
        links = named[number]
        if stat.S_ISDIR(inode.mode):
            links = 2 + below[number]
            if (named[number] == 1) == (number == ROOT):
                wrong.append(f"directory {number} has {named[number]} names")
        if inode.links != links or inode.entries != entries[number] or not inode.links:
            wrong.append(f"{inode}: expected {links} links, {entries[number]} entries")
    return wrong


def _extents(volume: Any, inodes: dict[int, Inode]) -> list[str]:
    wrong = []
    catalog, store = volume.catalog, volume.context.reader.store
    marks = {split_key(k): decode_reap(v) for k, v in catalog.scan(Table.REAP, b"")}
    live: Counter[int] = Counter()
    reached: Counter[int] = Counter()
    held: Counter[int] = Counter()
    for key, value in catalog.scan(Table.EXTENT, b""):
        number, offset = split_pair(key)
        extent = decode_extent(offset, value)
        at = extent.address
        if at is not None:
            live[at.segment] += extent.length
            held[number] += extent.length
            segment = store.segments.get(at.segment)
            archived = catalog.archived(at.segment)
            if archived is not None:
                if (at.frame, at.payload) != (0, archived.used_bytes):
                    wrong.append(f"inode {number}: {extent} is in {archived}")
            elif segment is None or segment.stream != Stream.DATA:
                wrong.append(f"inode {number}: {extent} is in {segment}")
        mark = marks.get(number)
        if mark is not None and mark.start <= offset < mark.end:
            continue
        if number not in inodes or reached[number] != offset:
            wrong.append(f"inode {number}: {extent} does not follow {reached[number]}")
        reached[number] = extent.end
    for number, inode in inodes.items():
        if stat.S_ISREG(inode.mode) and reached[number] != inode.size:
            wrong.append(f"{inode}: extents reach {reached[number]}")
        if inode.allocated != held[number]:
            wrong.append(f"{inode}: extents hold {held[number]}")
    known = {number: count for number, count in catalog.live.items() if count}
    if known != {number: count for number, count in live.items() if count}:
        wrong.append(f"live bytes are {known}, expected {dict(live)}")
    return wrong
