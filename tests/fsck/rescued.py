"""A filesystem on real directories with something of everything in its tree, to be decoded.

`Rescued` makes it, moves most of it into the archive, and knows what the tree is. `tree_at` reads a
real directory into the same form.
"""

from __future__ import annotations

import hashlib
import os
import random
import stat
from pathlib import Path
from unittest.mock import patch

from shmr import service
from shmr.config import load
from shmr.core.acl import ACCESS, Acl, Entry, Tag, encode
from shmr.format.rows import ROOT
from shmr.service.offline import unmounted
from shmr.testing.tree import KINDS, tree_of
from shmr.units import KIB, MIB
from shmr.volume.attributes import AttributeChange
from shmr.volume.context import Caller
from shmr.volume.volume import Volume

ME = Caller(0, 0)
CONFIG = """\
filesystem: rescued
catalog: catalog
same_device: true
pools:
  - name: work
    priority: 0
    scheme: single
    segment_size: 1MiB
    drives:
      - {{path: work, size: 64MiB}}
  - name: cold
    priority: 10
    scheme: {scheme}
    zone_size: 1MiB
    drives:
{drives}
"""
SCHEMES = {
    "mirror": "{mirror: 2}",
    "2+1": "{erasure: {k: 2, m: 1}}",
    "4+2": "{erasure: {k: 4, m: 2}}",
}
WIDTHS = {"mirror": 2, "2+1": 3, "4+2": 6}
M = {"mirror": 1, "2+1": 1, "4+2": 2}

Shown = tuple[str, int, int, int, int, int, bytes, tuple[tuple[bytes, bytes], ...], str]
"""Kind, mode, links, size, time of change, owner, target, attributes, content."""


class Rescued:
    """The filesystem. `archived` are the paths that were moved, `tree` all of them.

    `ids`: what its drives are called is drawn by this, and so is what goes where; else by chance.
    """

    def __init__(
        self, base: Path, scheme: str, *, spare: int = 0, ids: random.Random | None = None
    ) -> None:
        self.base = base
        self.config = base / "config.yaml"
        count = WIDTHS[scheme] + spare
        self.work = str(base / "work")
        self.cold = [str(base / f"cold{index}") for index in range(count)]
        for path in (self.work, *self.cold):
            Path(path).mkdir()
        drives = "\n".join(f"      - {{path: cold{i}, size: 64MiB}}" for i in range(count))
        self.config.write_text(CONFIG.format(scheme=SCHEMES[scheme], drives=drives))
        with patch("os.urandom", os.urandom if ids is None else ids.randbytes):
            service.create(self.config)
        self.tree: dict[bytes, Shown] = {}

    def fill(self, *, seed: int = 1, later: bool = False) -> None:
        """A tree of everything, moved into the archive; `later`: and a file that is not."""
        with unmounted(load(self.config), read_only=False) as (volume, _):
            make_tree(volume, seed)
        service.compact(self.config, everything=True, target="cold", flush=True)
        self.look()
        if later:
            with unmounted(load(self.config), read_only=False) as (volume, _):
                inode = volume.names.create(ROOT, b"later", 0o100640, ME)
                volume.data.write(inode.number, 0, random.Random(seed).randbytes(100_000))
            self.look()

    def look(self) -> None:
        with unmounted(load(self.config), read_only=True) as (volume, _):
            self.tree = tree_in(volume)


def make_tree(volume: Volume, seed: int) -> None:
    """Every kind of file, with every kind of attribute."""
    rng = random.Random(seed)
    names, data, xattrs = volume.names, volume.data, volume.xattrs

    def put(parent: int, name: bytes, size: int, mode: int = 0o644) -> int:
        inode = names.create(parent, name, stat.S_IFREG | mode, ME)
        for at in range(0, size, 200_000):
            data.write(inode.number, at, rng.randbytes(min(200_000, size - at)))
        return inode.number

    photos = names.create(ROOT, b"photos", stat.S_IFDIR | 0o750, ME).number
    deep = photos
    for _ in range(5):
        deep = names.create(deep, b"deeper", stat.S_IFDIR | 0o755, ME).number
    for index in range(12):
        put(photos, b"photo%d" % index, rng.choice((1, 5000, 70_000, 300_000)))
    put(deep, b"at the end", 40_000, 0o400)
    put(ROOT, b"large", 2_500_000)
    put(ROOT, b"empty", 0)
    put(ROOT, bytes(range(128, 150)) + b"\n\x1b[2J", 100)
    sparse = put(ROOT, b"sparse", 0)
    data.write(sparse, 3 * MIB, b"an island")
    volume.attributes.set(sparse, AttributeChange(size=9 * MIB))
    shared = put(ROOT, b"one of two", 123_456)
    names.link(shared, photos, b"two of two")
    names.create(ROOT, b"symlink", stat.S_IFLNK | 0o777, ME, target=b"photos/../../etc/passwd")
    names.create(photos, b"dangling", stat.S_IFLNK | 0o777, ME, target=b"/nowhere")
    names.create(ROOT, b"fifo", stat.S_IFIFO | 0o622, ME)
    names.create(ROOT, b"null", stat.S_IFCHR | 0o666, ME, rdev=1 << 8 | 3)
    suid = put(ROOT, b"suid", 10, 0o755)
    volume.attributes.set(suid, AttributeChange(mode=0o4755))
    listed = put(ROOT, b"with attributes", 1000, 0o640)
    xattrs.set(listed, b"user.comment", b"of a user")
    xattrs.set(listed, b"user.empty", b"")
    access = Acl(
        (
            Entry(Tag.OWNER, 6), Entry(Tag.USER, 4, 1234), Entry(Tag.GROUP, 4),
            Entry(Tag.MASK, 4), Entry(Tag.OTHER, 0),
        )
    )  # fmt: skip
    xattrs.set(listed, ACCESS, encode(access))
    xattrs.set(photos, b"user.album", b"x" * 1000)
    names.create(ROOT, b"sticky", stat.S_IFDIR | 0o1777, ME)
    for number in (photos, deep, sparse, shared, listed):
        owner = AttributeChange(uid=rng.randrange(1000, 2000), gid=rng.randrange(1000, 2000))
        volume.attributes.set(number, owner)
    for number in (photos, deep, sparse, shared, listed, suid):
        when = rng.randrange(10**18, 16 * 10**17)
        volume.attributes.set(number, AttributeChange(mtime_ns=when, atime_ns=when + 1))


def tree_in(volume: Volume) -> dict[bytes, Shown]:
    """The tree of a volume, without its root."""
    return {
        path: (
            entry.kind,
            entry.mode,
            1 if entry.kind == "directory" else entry.links,
            entry.size,
            entry.mtime_ns,
            entry.uid << 32 | entry.gid,
            entry.target,
            entry.xattrs,
            _digest_in(volume, path) if entry.kind == "file" else "",
        )
        for path, entry in tree_of(volume).items()
        if path != b"/"
    }


def _digest_in(volume: Volume, path: bytes) -> str:
    number = ROOT
    for name in path.split(b"/")[1:]:
        number = volume.names.lookup(number, name).number
    digest = hashlib.sha256()
    size = volume.attributes.get(number).size
    for at in range(0, size, 256 * KIB):
        plan = volume.data.plan_read(number, at, min(256 * KIB, size - at))
        try:
            digest.update(bytes(plan.fetch()))
        finally:
            plan.release()
    return digest.hexdigest()


def tree_at(top: Path) -> dict[bytes, Shown]:
    """The tree below a real directory."""
    found: dict[bytes, Shown] = {}
    base = os.fsencode(top)
    for directory, directories, files in os.walk(base):
        for name in (*directories, *files):
            path = os.path.join(directory, name)
            found[path[len(base) :]] = _shown(path)
    return found


def _shown(path: bytes) -> Shown:
    facts = os.lstat(path)
    kind = KINDS[stat.S_IFMT(facts.st_mode)]
    names = sorted(os.listxattr(path, follow_symlinks=False))
    xattrs = [(os.fsencode(name), os.getxattr(path, name, follow_symlinks=False)) for name in names]
    content = ""
    if kind == "file":
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    return (
        kind,
        stat.S_IMODE(facts.st_mode),
        1 if kind == "directory" else facts.st_nlink,
        0 if kind == "directory" else facts.st_size,
        facts.st_mtime_ns,
        facts.st_uid << 32 | facts.st_gid,
        os.readlink(path) if kind == "symlink" else b"",
        tuple(xattrs),
        content,
    )


def unprivileged(tree: dict[bytes, Shown]) -> dict[bytes, Shown]:
    """What comes of a tree that is written without `--special`."""
    return {
        path: (shown[0], shown[1] & 0o1777, *shown[2:])
        for path, shown in tree.items()
        if shown[0] in ("file", "directory", "symlink")
    }
