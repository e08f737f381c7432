"""Random operations against a model: one file against a bytearray, a tree against a dictionary.

Each run has a seed, which is in the test's name; a failure tells the last operations.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.calls import EXCHANGE, NOREPLACE, rename2

LIMIT = 600_000
STEPS = 3000


class ModelledFile:
    """A file and the bytes it must have; every operation is done to both."""

    def __init__(self, path: Path, rng: random.Random) -> None:
        self.path = path
        self.rng = rng
        self.model = bytearray()
        self.descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
        self.log: deque[str] = deque(maxlen=12)

    def place_and_size(self, limit: int) -> tuple[int, int]:
        """A random range below `limit`: small, or anything; often near page borders."""
        size = self.rng.choice((1, 10, 4096, 5000, 65_536, 131_072))
        size = self.rng.randint(1, size)
        offset = self.rng.randint(0, max(limit - size, 0))
        if self.rng.random() < 0.3:
            offset = offset // 4096 * 4096
        return offset, min(size, LIMIT - offset)

    def _put(self, offset: int, content: bytes) -> None:
        if offset > len(self.model):
            self.model.extend(bytes(offset - len(self.model)))
        self.model[offset : offset + len(content)] = content

    def write(self) -> None:
        offset, size = self.place_and_size(LIMIT if self.rng.random() < 0.3 else len(self.model))
        content = self.rng.randbytes(size)
        self.log.append(f"write {offset} {size}")
        assert os.pwrite(self.descriptor, content, offset) == size
        self._put(offset, content)

    def append(self) -> None:
        content = self.rng.randbytes(self.rng.randint(1, 3000))
        if len(self.model) + len(content) > LIMIT:
            return
        self.log.append(f"append {len(content)}")
        with open(self.path, "ab", buffering=0) as stream:
            stream.write(content)
        self.model += content

    def read(self) -> None:
        offset, size = self.place_and_size(LIMIT)
        self.log.append(f"read {offset} {size}")
        assert os.pread(self.descriptor, size, offset) == self.model[offset : offset + size]

    def truncate(self) -> None:
        size = self.rng.randint(0, min(LIMIT, 2 * len(self.model) + 5000))
        self.log.append(f"truncate {size}")
        os.ftruncate(self.descriptor, size)
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    def read_mapped(self) -> None:
        if not self.model:
            return
        offset, size = self.place_and_size(len(self.model))
        self.log.append(f"mmap read {offset} {size}")
        with mmap.mmap(self.descriptor, len(self.model)) as memory:
            assert memory[offset : offset + size] == self.model[offset : offset + size]

    def write_mapped(self) -> None:
        if not self.model:
            return
        offset, size = self.place_and_size(len(self.model))
        size = min(size, len(self.model) - offset)
        content = self.rng.randbytes(size)
        self.log.append(f"mmap write {offset} {size}")
        with mmap.mmap(self.descriptor, len(self.model)) as memory:
            memory[offset : offset + size] = content
            if self.rng.random() < 0.5:
                memory.flush()
        self._put(offset, content)

    def copy_range(self) -> None:
        source, size = self.place_and_size(max(len(self.model), 1))
        target = self.rng.randint(0, LIMIT - size)
        if abs(source - target) < size or source >= len(self.model):
            return
        self.log.append(f"copy {source} {target} {size}")
        copied = os.copy_file_range(self.descriptor, self.descriptor, size, source, target)
        self._put(target, bytes(self.model[source : source + copied]))

    def sync(self) -> None:
        self.log.append("fsync")
        os.fsync(self.descriptor)
        if self.rng.random() < 0.5:
            os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def reopen(self) -> None:
        crowded = len(self.model) > LIMIT // 2
        flags = self.rng.choice((0, os.O_TRUNC) if crowded else (0, os.O_SYNC))
        self.log.append(f"reopen {flags:o}")
        os.close(self.descriptor)
        self.descriptor = os.open(self.path, os.O_RDWR | flags)
        if flags & os.O_TRUNC:
            self.model.clear()

    def check(self) -> None:
        """The whole file and its size."""
        assert os.stat(self.path).st_size == len(self.model)
        assert self.path.read_bytes() == self.model


@pytest.mark.parametrize("seed", range(3))
def test_a_file_behaves_like_a_byte_array(place: Path, seed: int) -> None:
    rng = random.Random(seed)
    file = ModelledFile(place / "file", rng)
    choices: list[tuple[Callable[[], None], int]] = [
        (file.write, 30),
        (file.append, 8),
        (file.read, 25),
        (file.truncate, 6),
        (file.read_mapped, 10),
        (file.write_mapped, 10),
        (file.copy_range, 4),
        (file.sync, 4),
        (file.reopen, 3),
    ]
    operations = [operation for operation, weight in choices for _ in range(weight)]
    try:
        for step in range(STEPS):
            rng.choice(operations)()
            if step % 50 == 0:
                file.check()
        file.check()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, after {list(file.log)}: {error}") from None
    finally:
        os.close(file.descriptor)


Tree = dict[str, "Tree | bytes"]


class ModelledTree:
    """A directory tree and the nested dictionaries it must equal.

    Both do each operation; when the model refuses, the filesystem must give the same errno.
    Files are immutable values here: hard links are left to other tests.
    """

    def __init__(self, top: Path, rng: random.Random) -> None:
        self.top = top
        self.rng = rng
        self.model: Tree = {}
        self.log: deque[str] = deque(maxlen=12)

    def some_path(self) -> tuple[str, ...]:
        """One to four names out of few, so that paths meet."""
        return tuple(self.rng.choice("abcd") for _ in range(self.rng.randint(1, 4)))

    def find(self, path: tuple[str, ...]) -> tuple[Tree | None, int]:
        """The directory that holds the last name, or None and the errno of the way there."""
        here = self.model
        for name in path[:-1]:
            if name not in here:
                return None, errno.ENOENT
            below = here[name]
            if isinstance(below, bytes):
                return None, errno.ENOTDIR
            here = below
        return here, 0

    def attempt(self, label: str, wanted: int, action: Callable[[], object]) -> None:
        """Do `action`; it must give the errno `wanted`, 0 for success."""
        self.log.append(f"{label} -> {wanted}")
        found = 0
        try:
            action()
        except OSError as error:
            found = error.errno or -1
        if {wanted, found} == {errno.ENOTEMPTY, errno.EEXIST}:
            return
        assert found == wanted, f"expected errno {wanted}, found {found}"

    def make_file(self) -> None:
        path = self.some_path()
        where, wanted = self.find(path)
        if where is not None and isinstance(where.get(path[-1]), dict):
            wanted = errno.EISDIR
        content = self.rng.randbytes(self.rng.randint(0, 200))
        real = self.top.joinpath(*path)
        self.attempt(f"write {path}", wanted, lambda: real.write_bytes(content))
        if not wanted and where is not None:
            where[path[-1]] = content

    def make_directory(self) -> None:
        path = self.some_path()
        where, wanted = self.find(path)
        if where is not None and path[-1] in where:
            wanted = errno.EEXIST
        self.attempt(f"mkdir {path}", wanted, self.top.joinpath(*path).mkdir)
        if not wanted and where is not None:
            where[path[-1]] = {}

    def remove(self) -> None:
        path = self.some_path()
        where, wanted = self.find(path)
        node = None if where is None else where.get(path[-1])
        as_directory = self.rng.random() < 0.5
        if where is not None:
            if node is None:
                wanted = errno.ENOENT
            elif isinstance(node, bytes) and as_directory:
                wanted = errno.ENOTDIR
            elif isinstance(node, dict):
                wanted = (errno.ENOTEMPTY if node else 0) if as_directory else errno.EISDIR
        real = self.top.joinpath(*path)
        self.attempt(f"remove {path}", wanted, real.rmdir if as_directory else real.unlink)
        if not wanted and where is not None:
            del where[path[-1]]

    def _rename_errno(
        self, old: tuple[str, ...], new: tuple[str, ...], flags: int
    ) -> tuple[int, Tree | None, Tree | None]:
        source, first = self.find(old)
        target, second = self.find(new)
        if source is None or target is None:
            return first or second, source, target
        if old[-1] not in source:
            return errno.ENOENT, source, target
        if flags == EXCHANGE and new[-1] not in target:
            return errno.ENOENT, source, target
        if flags == NOREPLACE and new[-1] in target:
            return errno.EEXIST, source, target
        if new[: len(old)] == old and new != old:
            return errno.EINVAL, source, target
        if old[: len(new)] == new and new != old:
            return (errno.EINVAL if flags == EXCHANGE else errno.ENOTEMPTY), source, target
        node, other = source[old[-1]], target.get(new[-1])
        if flags == EXCHANGE or other is None or node is other:
            return 0, source, target
        if isinstance(node, dict) != isinstance(other, dict):
            number = errno.ENOTDIR if isinstance(node, dict) else errno.EISDIR
            return number, source, target
        return (errno.ENOTEMPTY if isinstance(other, dict) and other else 0), source, target

    def rename(self) -> None:
        old, new = self.some_path(), self.some_path()
        flags = self.rng.choice((0, 0, NOREPLACE, EXCHANGE))
        wanted, source, target = self._rename_errno(old, new, flags)
        paths = self.top.joinpath(*old), self.top.joinpath(*new)
        label = f"rename {old} {new} {flags}"
        self.attempt(label, wanted, lambda: rename2(*paths, flags))
        if wanted or old == new or source is None or target is None:
            return
        node = source.pop(old[-1])
        if flags == EXCHANGE:
            node, target[new[-1]] = target[new[-1]], node
            source[old[-1]] = node
        else:
            target[new[-1]] = node

    def seen(self, where: Path) -> Tree:
        """The real tree as nested dictionaries; checks the links of each directory."""
        found: Tree = {}
        for name in os.listdir(where):
            path = where / name
            found[name] = self.seen(path) if path.is_dir() else path.read_bytes()
        directories = sum(isinstance(node, dict) for node in found.values())
        assert os.stat(where).st_nlink == 2 + directories
        return found


@pytest.mark.parametrize("seed", range(3))
def test_a_tree_behaves_like_nested_dictionaries(place: Path, seed: int) -> None:
    rng = random.Random(seed)
    tree = ModelledTree(place, rng)
    operations = [tree.make_file, tree.make_directory, tree.make_directory, tree.remove]
    operations += [tree.rename, tree.rename]
    try:
        for step in range(STEPS):
            rng.choice(operations)()
            if step % 100 == 0:
                assert tree.seen(place) == tree.model
        assert tree.seen(place) == tree.model
    except AssertionError as error:
        raise AssertionError(f"seed {seed}, after {list(tree.log)}: {error}") from None
