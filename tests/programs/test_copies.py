"""rsync, tar, cp, unzip, find and du: trees that arrive whole, and tools that agree."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from tests.programs.running import needs, run
from tests.programs.trees import age, describe, plain_tree, rich_tree

pytestmark = pytest.mark.programs


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A rich tree on the machine's own filesystem."""
    top = tmp_path / "source"
    top.mkdir()
    rich_tree(top)
    return top


@needs("rsync")
@pytest.mark.root
def test_rsync_carries_everything_there_and_back(place: Path, tmp_path: Path, source: Path) -> None:
    wanted = describe(source)
    run("rsync", "-aHAXS", f"{source}/", f"{place}/there/", cwd=place)
    assert describe(place / "there") == wanted
    assert os.stat(place / "there" / "sparse").st_blocks * 512 < 1 << 20
    run("rsync", "-aHAXS", f"{place}/there/", f"{tmp_path}/back/", cwd=place)
    assert describe(tmp_path / "back") == wanted
    again = ["-aHAXSn", "--itemize-changes", f"{source}/", f"{place}/there/"]
    listed = run("rsync", *again, cwd=place)
    assert listed == ""


@needs("rsync")
def test_rsync_updates_in_place_and_deletes(place: Path) -> None:
    (place / "from").mkdir()
    plain_tree(place / "from")
    run("rsync", "-a", "from/", "to/", cwd=place)
    (place / "from" / "directory 1" / "new").write_bytes(b"new")
    changed = next((place / "from").rglob("file-100.dat"))
    with open(changed, "r+b") as stream:
        stream.seek(1000)
        stream.write(b"changed")
    next((place / "from").rglob("file-7.dat")).unlink()
    age(place / "from", 2)
    run("rsync", "-a", "--delete", "--inplace", "--no-whole-file", "from/", "to/", cwd=place)
    assert describe(place / "to") == describe(place / "from")


@needs("tar")
@pytest.mark.root
def test_tar_carries_everything_with_attributes(place: Path, source: Path) -> None:
    options = ["--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--format=pax"]
    wanted = describe(source)
    run("tar", *options, "-S", "-cf", place / "one.tar", "-C", source, ".", cwd=place)
    (place / "there").mkdir()
    run("tar", *options, "-xpf", "one.tar", "-C", "there", cwd=place)
    assert describe(place / "there") == wanted
    run("tar", *options, "-df", "one.tar", "-C", "there", cwd=place)
    run("tar", *options, "-S", "-cf", "two.tar", "-C", "there", ".", cwd=place)
    run("tar", *options, "-df", "two.tar", "-C", source, cwd=place)


@needs("cp")
@pytest.mark.root
def test_cp_copies_everything(place: Path, source: Path) -> None:
    run("cp", "-a", source, place / "there", cwd=place)
    assert describe(place / "there") == describe(source)
    run("cp", "-a", "there", "again", cwd=place)
    assert describe(place / "again") == describe(source)


@needs("zip", "unzip")
def test_unzip_brings_back_what_zip_took(place: Path) -> None:
    (place / "from").mkdir()
    plain_tree(place / "from")
    run("zip", "-qr", "../all.zip", ".", cwd=place / "from")
    run("unzip", "-tq", "all.zip", cwd=place)
    run("unzip", "-q", "all.zip", "-d", "to", cwd=place)
    wanted = {path: (node.mode, node.content) for path, node in describe(place / "from").items()}
    found = {path: (node.mode, node.content) for path, node in describe(place / "to").items()}
    assert found == wanted


@needs("find", "du")
def test_find_and_du_agree_with_the_tree(place: Path) -> None:
    plain_tree(place)
    (place / "empty").mkdir()
    os.link(next(place.rglob("file-50.dat")), place / "link")
    os.sync()
    nodes = [place, *place.rglob("*")]
    states = [os.lstat(path) for path in nodes]
    files = [state for state in states if stat.S_ISREG(state.st_mode)]
    directories = [state for state in states if stat.S_ISDIR(state.st_mode)]
    found = run("find", ".", "-printf", "%y %n %s\n", cwd=place).splitlines()
    assert len(found) == len(nodes)
    assert sum(line.startswith("f") for line in found) == len(files)
    assert run("find", ".", "-type", "d", "-empty", cwd=place) == "./empty\n"
    assert len(run("find", ".", "-type", "f", "-links", "2", cwd=place).splitlines()) == 2
    for directory in (path for path in nodes if path.is_dir()):
        below = sum(entry.is_dir(follow_symlinks=False) for entry in os.scandir(directory))
        assert os.stat(directory).st_nlink == 2 + below
    blocks = {state.st_ino: state.st_blocks for state in states}
    told = int(run("du", "-s", "--block-size=512", ".", cwd=place).split()[0])
    assert told == sum(blocks.values())
    sizes = {state.st_ino: state.st_size for state in files + directories}
    told = int(run("du", "-s", "--apparent-size", "-B1", ".", cwd=place).split()[0])
    linked = run("du", "-s", "--apparent-size", "-B1", "-l", ".", cwd=place)
    assert told <= sum(sizes.values())
    assert int(linked.split()[0]) - told == os.stat(place / "link").st_size


def test_the_shell_and_its_tools_do_an_ordinary_day_s_work(place: Path) -> None:
    script = r"""
        set -eu
        mkdir -p a/b/c && cd a
        printf 'one\ntwo\nthree\n' > list
        sed -i 's/two/2/' list && sort -o list list && grep -qx 2 list
        mkfifo pipe && (cat list > pipe &) && test "$(wc -l < pipe)" = 3
        mkfifo -m 600 private && test "$(stat -c %a private)" = 600
        install -m 751 list b/installed && test "$(stat -c %a b/installed)" = 751
        dd if=/dev/zero of=zeros bs=4096 count=64 conv=fsync status=none
        test "$(stat -c %s zeros)" = 262144 && truncate -s 100 zeros
        cp --sparse=always zeros b/zeros && cmp zeros b/zeros
        ln list b/hard && ln -s ../list b/soft && test b/hard -ef list && cmp b/soft list
        mv b d && mv -n list d/c/list && test ! -e list && test "$(cat d/hard | wc -l)" = 3
        touch -d '1960-01-02 03:04:05.123456789 UTC' zeros
        test "$(stat -c %Y zeros)" = -315521755
        shred -u zeros && rmdir d/c 2>/dev/null && exit 1
        cp -r d e && diff -r --no-dereference d e && rm -r d e pipe private && cd .. && rmdir a
    """
    run("bash", "-c", script, cwd=place)
    assert os.listdir(place) == []


def test_a_pipeline_of_readers_and_writers_loses_nothing(place: Path) -> None:
    script = """
        seq 1 200000 | tee one | gzip > two.gz
        zcat two.gz | cmp - one && tac one | tac | cmp - one
    """
    done = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", script], cwd=place, timeout=60)
    assert done.returncode == 0
