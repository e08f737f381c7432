"""POSIX ACLs: the codec refuses what Linux refuses, chmod and creation do what Linux does."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmr.core.acl import (
    Acl,
    Entry,
    InvalidAcl,
    Tag,
    UnknownAclVersion,
    decode,
    encode,
    inherit,
    is_minimal,
    mode_of,
    with_mode,
)

NO_ID = 0xFFFFFFFF
permissions: st.SearchStrategy[int] = st.integers(0, 7)
ids: st.SearchStrategy[set[int]] = st.sets(st.integers(0, NO_ID - 1), max_size=5)
modes = st.integers(0, 0o177777)


@st.composite
def acls(draw: st.DrawFn) -> Acl:
    users, groups = draw(ids), draw(ids)
    entries = [Entry(Tag.OWNER, draw(permissions))]
    entries += [Entry(Tag.USER, draw(permissions), uid) for uid in users]
    entries.append(Entry(Tag.GROUP, draw(permissions)))
    entries += [Entry(Tag.NAMED_GROUP, draw(permissions), gid) for gid in groups]
    if users or groups or draw(st.booleans()):
        entries.append(Entry(Tag.MASK, draw(permissions)))
    entries.append(Entry(Tag.OTHER, draw(permissions)))
    return Acl(tuple(entries))


def packed(*entries: tuple[int, int, int]) -> bytes:
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


OWNER, GROUP, OTHER = (1, 6, NO_ID), (4, 4, NO_ID), (32, 0, NO_ID)
MASK = (16, 5, NO_ID)


@given(acls())
def test_an_acl_survives_its_bytes(acl: Acl) -> None:
    assert decode(encode(acl)) == acl


@given(st.binary(max_size=80) | st.binary(max_size=72).map(lambda b: struct.pack("<I", 2) + b))
def test_any_bytes_are_an_acl_or_invalid(value: bytes) -> None:
    try:
        acl = decode(value)
    except InvalidAcl:
        return
    assert acl is None or decode(encode(acl)) == acl


@given(acls(), st.data())
def test_a_missing_or_repeated_entry_is_invalid_or_another_valid_acl(
    acl: Acl, data: st.DataObject
) -> None:
    value = encode(acl)
    count = len(acl.entries)
    index = data.draw(st.integers(0, count - 1))
    entry = value[4 + 8 * index : 12 + 8 * index]
    with pytest.raises(InvalidAcl):
        decode(value[: 4 + 8 * index] + entry + value[4 + 8 * index :])
    if acl.entries[index].tag in (Tag.OWNER, Tag.GROUP, Tag.OTHER):
        with pytest.raises(InvalidAcl):
            decode(value[: 4 + 8 * index] + value[12 + 8 * index :])


def test_the_bytes_are_those_of_linux() -> None:
    # Written by setfacl -m u:1000:rw on a file of mode 0640, read by getfattr.
    value = bytes.fromhex(
        "0200000001000600ffffffff02000600e803000004000400ffffffff10000600ffffffff20000000ffffffff"
    )
    acl = decode(value)
    assert acl == Acl(
        (
            Entry(Tag.OWNER, 6),
            Entry(Tag.USER, 6, 1000),
            Entry(Tag.GROUP, 4),
            Entry(Tag.MASK, 6),
            Entry(Tag.OTHER, 0),
        )
    )
    assert encode(acl) == value


@pytest.mark.parametrize("value", [b"", packed()])
def test_an_acl_without_entries_is_a_request_to_remove(value: bytes) -> None:
    assert decode(value) is None


def test_ids_of_entries_that_take_none_are_ignored() -> None:
    acl = decode(packed((1, 6, 7), (4, 4, 0), (32, 0, 9)))
    assert acl is not None and encode(acl) == packed(OWNER, GROUP, OTHER)


@pytest.mark.parametrize(
    ("reason", "value"),
    [
        ("no header", b"\x02\0\0"),
        ("half an entry", packed(OWNER, GROUP, OTHER) + b"\0\0\0\0"),
        ("no owner", packed(GROUP, OTHER)),
        ("no group", packed(OWNER, OTHER)),
        ("no other", packed(OWNER, GROUP)),
        ("two owners", packed(OWNER, OWNER, GROUP, OTHER)),
        ("wrong order", packed(GROUP, OWNER, OTHER)),
        ("named user after the group", packed(OWNER, GROUP, (2, 7, 5), MASK, OTHER)),
        ("named user without a mask", packed(OWNER, (2, 7, 5), GROUP, OTHER)),
        ("named group without a mask", packed(OWNER, GROUP, (8, 7, 5), OTHER)),
        ("two masks", packed(OWNER, GROUP, MASK, MASK, OTHER)),
        ("a user twice", packed(OWNER, (2, 7, 5), (2, 6, 5), GROUP, MASK, OTHER)),
        ("a user who is nobody", packed(OWNER, (2, 7, NO_ID), GROUP, MASK, OTHER)),
        ("permissions above 7", packed((1, 8, NO_ID), GROUP, OTHER)),
        ("unknown tag", packed(OWNER, GROUP, (3, 1, 1), OTHER)),
        ("another version", struct.pack("<I", 3) + packed(OWNER, GROUP, OTHER)[4:]),
    ],
)
def test_what_linux_refuses_is_invalid(reason: str, value: bytes) -> None:
    with pytest.raises(InvalidAcl):
        decode(value)


def test_another_version_can_be_told_apart() -> None:
    with pytest.raises(UnknownAclVersion):
        decode(struct.pack("<I", 3))


def test_an_acl_that_breaks_the_rules_cannot_be_made() -> None:
    with pytest.raises(InvalidAcl):
        Acl((Entry(Tag.OWNER, 7),))
    with pytest.raises(InvalidAcl):
        Acl((Entry(Tag.OWNER, 7, 1), Entry(Tag.GROUP, 7), Entry(Tag.OTHER, 7)))


@given(acls(), modes)
def test_chmod_is_seen_in_the_mode_and_leaves_the_named_alone(acl: Acl, mode: int) -> None:
    changed = with_mode(acl, mode)
    assert mode_of(changed) == mode & 0o777
    named = (Tag.USER, Tag.NAMED_GROUP)
    assert [e for e in changed.entries if e.tag in named] == [
        e for e in acl.entries if e.tag in named
    ]
    if acl.permissions(Tag.MASK) is not None:
        assert changed.permissions(Tag.GROUP) == acl.permissions(Tag.GROUP)


@given(acls())
def test_chmod_to_the_shown_mode_changes_nothing(acl: Acl) -> None:
    assert with_mode(acl, mode_of(acl)) == acl


@given(acls())
def test_a_minimal_acl_is_nothing_but_its_mode(acl: Acl) -> None:
    assert is_minimal(acl) == (len(acl.entries) == 3)
    if is_minimal(acl):
        blank = Acl((Entry(Tag.OWNER, 0), Entry(Tag.GROUP, 0), Entry(Tag.OTHER, 0)))
        assert with_mode(blank, mode_of(acl)) == acl


@given(acls(), modes, st.booleans())
def test_a_new_entry_gets_what_was_asked_for_and_the_default_grants(
    default: Acl, mode: int, is_directory: bool
) -> None:
    access, granted, passed_on = inherit(default, mode, is_directory)
    assert granted == mode & (mode_of(default) | ~0o777)
    assert passed_on == (default if is_directory else None)
    assert (access is None) == is_minimal(default)
    if access is not None:
        assert mode_of(access) == granted & 0o777
        assert access == with_mode(default, granted)


def test_a_file_made_0666_under_a_default_acl_of_a_team() -> None:
    default = decode(packed((1, 7, 0), (4, 5, 0), (8, 7, 100), (16, 7, 0), (32, 0, 0)))
    assert default is not None
    access, mode, passed_on = inherit(default, 0o100666, False)
    assert (mode, passed_on) == (0o100660, None)
    assert access is not None
    expected = packed((1, 6, NO_ID), (4, 5, NO_ID), (8, 7, 100), (16, 6, NO_ID), OTHER)
    assert encode(access) == expected
