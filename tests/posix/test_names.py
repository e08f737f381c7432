"""Names and paths: their lengths, their bytes, symlinks on the way."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.posix.calls import refused, write_file

NAME_MAX, PATH_MAX, SYMLINKS_MAX = 255, 4096, 40

CREATORS: list[Callable[[bytes], object]] = [
    lambda path: os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)),
    os.mkdir,
    os.mkfifo,
    lambda path: os.symlink(b"target", path),
]


@pytest.mark.parametrize("create", CREATORS)
@pytest.mark.parametrize("letter", [b"x", b"\xff", "ü".encode()])
def test_a_name_of_255_bytes_fits_and_one_more_is_too_long(
    place: Path, create: Callable[[bytes], object], letter: bytes
) -> None:
    longest = (letter * NAME_MAX)[:NAME_MAX]
    create(os.fsencode(place) + b"/" + longest)
    assert os.listdir(os.fsencode(place)) == [longest]
    with refused(errno.ENAMETOOLONG):
        create(os.fsencode(place) + b"/" + longest + b"x")
    with refused(errno.ENAMETOOLONG):
        os.lstat(os.fsencode(place) + b"/" + longest + b"x")


@pytest.mark.parametrize(
    "name",
    [
        b"new\nline",
        b"\xff\xfe invalid UTF-8",
        b" ",
        b"...",
        b"-rf",
        b"*?[a]",
        b"\\back\\slash",
        b"\"quote'",
        b"\x01\x7f",
        "e\u0301 decomposed".encode(),
        "\u00e9 composed".encode(),
        b"CON",
        b"trailing.",
        b"trailing ",
        b".hidden",
        b"lost+found",
    ],
)
def test_a_name_may_have_any_bytes_but_slash_and_zero(place: Path, name: bytes) -> None:
    path = os.fsencode(place) + b"/" + name
    with open(path, "xb") as stream:
        stream.write(name)
    assert os.listdir(os.fsencode(place)) == [name]
    os.rename(path, path + b"2")
    os.rename(path + b"2", path)
    with open(path, "rb") as stream:
        assert stream.read() == name
    os.unlink(path)
    assert os.listdir(place) == []


def test_every_single_byte_is_a_name_of_its_own(place: Path) -> None:
    names = [bytes([byte]) for byte in range(1, 256) if byte not in b"/."]
    for name in names:
        with open(os.fsencode(place) + b"/" + name, "xb") as stream:
            stream.write(name)
    assert sorted(os.listdir(os.fsencode(place))) == names
    for name in names:
        with open(os.fsencode(place) + b"/" + name, "rb") as stream:
            assert stream.read() == name


def test_letters_of_other_case_are_other_names(place: Path) -> None:
    for name in ("name", "Name", "NAME"):
        write_file(place / name, name.encode())
    assert sorted(os.listdir(place)) == ["NAME", "Name", "name"]


def test_dots_and_double_slashes_lead_nowhere_else(place: Path) -> None:
    (place / "directory").mkdir()
    write_file(place / "directory" / "file", b"content")
    for path in ("directory/./file", "directory//file", "directory/../directory/file"):
        with open(f"{place}/{path}", "rb") as stream:
            assert stream.read() == b"content"
    with refused(errno.ENOENT):
        os.stat(f"{place}/missing/../directory")


def test_a_path_ends_at_4095_bytes(place: Path) -> None:
    stem = os.fsencode(place) + b"/"
    longest = stem.ljust(PATH_MAX - 5, b"/") + b"file"
    assert len(longest) == PATH_MAX - 1
    with open(longest, "xb"):
        pass
    assert os.listdir(place) == ["file"]
    with refused(errno.ENAMETOOLONG):
        os.stat(b"/" + longest)


def test_a_tree_deeper_than_a_path_can_name_is_walked_step_by_step(place: Path) -> None:
    held = os.open(place, os.O_RDONLY)
    step = "d" * 200
    for _ in range(30):
        os.mkdir(step, dir_fd=held)
        below = os.open(step, os.O_RDONLY, dir_fd=held)
        os.close(held)
        held = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=held))
    for _ in range(30):
        above = os.open("..", os.O_RDONLY, dir_fd=held)
        os.close(held)
        held = above
    assert os.fstat(held).st_ino == os.stat(place).st_ino
    os.close(held)


def test_symlinks_that_go_round_are_a_loop(place: Path) -> None:
    (place / "self").symlink_to("self")
    (place / "a").symlink_to("b")
    (place / "b").symlink_to("a")
    for name in ("self", "a", "b"):
        for call in (os.stat, os.listdir, lambda path: os.open(path, os.O_RDONLY)):
            with refused(errno.ELOOP):
                call(place / name)
        with refused(errno.ELOOP):
            os.stat(place / name / "below")
        assert os.lstat(place / name).st_size > 0


def test_a_chain_of_forty_symlinks_is_followed_and_one_more_is_a_loop(place: Path) -> None:
    write_file(place / "0", b"content")
    for index in range(1, SYMLINKS_MAX + 2):
        (place / str(index)).symlink_to(str(index - 1))
    assert (place / str(SYMLINKS_MAX)).read_bytes() == b"content"
    with refused(errno.ELOOP):
        (place / str(SYMLINKS_MAX + 1)).read_bytes()


def test_symlinks_lead_through_directories_up_and_out(place: Path) -> None:
    (place / "a" / "b").mkdir(parents=True)
    write_file(place / "file", b"content")
    (place / "a" / "b" / "up").symlink_to("../../file")
    (place / "a" / "absolute").symlink_to(place / "file")
    (place / "directory").symlink_to("a/b")
    assert (place / "directory" / "up").read_bytes() == b"content"
    assert (place / "a" / "absolute").read_bytes() == b"content"
    assert os.path.realpath(place / "directory" / "up") == os.path.realpath(place / "file")


@pytest.mark.parametrize(
    "call",
    [
        os.stat,
        os.lstat,
        os.mkdir,
        os.mkfifo,
        os.unlink,
        os.rmdir,
        os.listdir,
        os.readlink,
        lambda path: os.truncate(path, 0),
        lambda path: os.chmod(path, 0o644),
        lambda path: os.utime(path),
        lambda path: os.symlink("target", path),
        lambda path: os.open(path, os.O_CREAT | os.O_WRONLY),
    ],
)
def test_a_file_is_no_directory_on_the_way(place: Path, call: Callable[[Path], object]) -> None:
    write_file(place / "file", b"content")
    with refused(errno.ENOTDIR):
        call(place / "file" / "below")
    with refused(errno.ENOENT):
        call(place / "missing" / "below")
