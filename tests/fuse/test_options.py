"""Mount options: understood or refused, never ignored."""

from __future__ import annotations

import pytest

from shmr.errors import SetupError
from shmr.fuse.options import Atime, MountOptions, parse_options


def test_root_mounts_for_everybody_and_a_user_for_himself() -> None:
    assert parse_options([], privileged=True) == MountOptions(allow_other=True)
    assert parse_options([], privileged=False) == MountOptions(allow_other=False)


def test_later_words_win_over_several_groups() -> None:
    options = parse_options(["ro,noexec", "rw", "noatime, noallow_other"], privileged=True)
    assert options == MountOptions(exec=False, atime=Atime.NEVER)


@pytest.mark.parametrize(
    ("word", "field", "value"),
    [
        ("ro", "read_only", True),
        ("suid", "suid", True),
        ("dev", "dev", True),
        ("noexec", "exec", False),
        ("allow_other", "allow_other", True),
        ("noallow_other", "allow_other", False),
        ("noatime", "atime", Atime.NEVER),
    ],
)
def test_each_word_sets_its_field(word: str, field: str, value: object) -> None:
    assert getattr(parse_options([word], privileged=True), field) == value


def test_what_fstab_adds_for_other_readers_changes_nothing() -> None:
    words = "defaults,nofail,_netdev,noauto,x-systemd.automount,default_permissions"
    assert parse_options([words], privileged=True) == parse_options([], privileged=True)


@pytest.mark.parametrize(
    "word", ["size=10", "allow_root", "strictatime", "RO", "fd=3", "max_read=1"]
)
def test_a_word_that_cannot_be_honoured_is_named(word: str) -> None:
    with pytest.raises(SetupError, match=word.split("=")[0]):
        parse_options([f"ro,{word}"], privileged=True)


@pytest.mark.parametrize("word", ["suid", "dev"])
def test_a_user_is_told_that_only_root_may_mount_with(word: str) -> None:
    with pytest.raises(SetupError, match="only root"):
        parse_options([word], privileged=False)
