"""POSIX access control lists: their bytes, their validity, what chmod and creation make of them.

An ACL travels as the value of the extended attribute `system.posix_acl_access` (it rules access
to the inode) or `system.posix_acl_default` (a directory's: what new entries inherit). The rules
are those of acl(5) and of the Linux file systems: `with_mode` is their chmod, `inherit` their
creation. An `Acl` value is always valid: `decode` refuses everything else.

Layout, little endian (linux/posix_acl_xattr.h):

    offset  size  field
    0       4     version     2
    4       8*n   entries
      +0    2     tag         1 owner, 2 user, 4 group, 8 named group, 16 mask, 32 other
      +2    2     permissions read 4, write 2, execute 1
      +4    4     id          of a named user or group; 0xFFFFFFFF in the other entries

Left to others: who may set an ACL, where it is stored, and checking access (the kernel does).
Pure: bytes and numbers in, bytes and numbers out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from shmr.errors import IntegrityError

ACCESS = b"system.posix_acl_access"
DEFAULT = b"system.posix_acl_default"

_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_VERSION = 2
_NO_ID = 0xFFFFFFFF


class Tag(IntEnum):
    """Whom an entry is about, in the order in which the entries of an ACL must stand."""

    OWNER = 1
    USER = 2
    GROUP = 4
    NAMED_GROUP = 8
    MASK = 16
    OTHER = 32


_NAMED = (Tag.USER, Tag.NAMED_GROUP)


class InvalidAcl(IntegrityError, ValueError):
    """These bytes are not an ACL. From a program: EINVAL. From a drive: damage."""


class UnknownAclVersion(InvalidAcl):
    """The bytes say that they have another layout. From a program: EOPNOTSUPP."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an ACL. `id` is None unless the tag is USER or NAMED_GROUP."""

    tag: Tag
    permissions: int
    id: int | None = None


@dataclass(frozen=True, slots=True)
class Acl:
    """A valid ACL: what `decode` lets through. Raises InvalidAcl when made of anything else."""

    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        _check(self.entries)

    def permissions(self, tag: Tag) -> int | None:
        """The permissions of the first entry with `tag`, if there is one."""
        return next((entry.permissions for entry in self.entries if entry.tag is tag), None)

    def with_permissions(self, changes: dict[Tag, int]) -> Acl:
        """This ACL with other permissions in the entries whose tags `changes` names."""
        return Acl(
            tuple(
                Entry(entry.tag, changes.get(entry.tag, entry.permissions), entry.id)
                for entry in self.entries
            )
        )


def _check(entries: tuple[Entry, ...]) -> None:
    """The rules of acl_valid(3). Raises InvalidAcl with the one that is broken."""
    tags = [entry.tag for entry in entries]
    if tags != sorted(tags):
        raise InvalidAcl("the entries of an ACL stand in the order of their tags")
    for tag in (Tag.OWNER, Tag.GROUP, Tag.OTHER):
        if tags.count(tag) != 1:
            raise InvalidAcl(f"an ACL has one entry {tag.name}, found {tags.count(tag)}")
    if tags.count(Tag.MASK) > 1:
        raise InvalidAcl("an ACL has at most one mask")
    named = [(entry.tag, entry.id) for entry in entries if entry.tag in _NAMED]
    if named and Tag.MASK not in tags:
        raise InvalidAcl("an ACL with named users or groups has a mask")
    if len(set(named)) != len(named):
        raise InvalidAcl("an ACL names a user or a group once")
    for entry in entries:
        if not 0 <= entry.permissions <= 7:
            raise InvalidAcl(f"permissions are 0 to 7, found {entry.permissions}")
        if (entry.id is not None) != (entry.tag in _NAMED):
            raise InvalidAcl(f"an id belongs to named entries only, found one in {entry.tag.name}")
        if entry.id is not None and not 0 <= entry.id < _NO_ID:
            raise InvalidAcl(f"{entry.id} is the id of nobody")


def decode(value: bytes) -> Acl | None:
    """The ACL in `value`, or None for an ACL without entries: that one is a request to remove.

    Ids of entries that take none are ignored, as Linux does. Raises InvalidAcl.
    """
    if not value:
        return None
    if len(value) < _HEADER.size or (len(value) - _HEADER.size) % _ENTRY.size:
        raise InvalidAcl(f"{len(value)} bytes are no ACL")
    (version,) = _HEADER.unpack_from(value)
    if version != _VERSION:
        raise UnknownAclVersion(f"expected an ACL of version {_VERSION}, found {version}")
    entries = []
    for number, permissions, owner in _ENTRY.iter_unpack(memoryview(value)[_HEADER.size :]):
        try:
            tag = Tag(number)
        except ValueError:
            raise InvalidAcl(f"{number} is no tag of an ACL entry") from None
        entries.append(Entry(tag, permissions, owner if tag in _NAMED else None))
    return Acl(tuple(entries)) if entries else None


def encode(acl: Acl) -> bytes:
    """The bytes of `acl`, as getxattr(2) returns them."""
    return _HEADER.pack(_VERSION) + b"".join(
        _ENTRY.pack(entry.tag, entry.permissions, _NO_ID if entry.id is None else entry.id)
        for entry in acl.entries
    )


def is_minimal(acl: Acl) -> bool:
    """Whether the nine permission bits of a mode say all that `acl` says; then it is not stored."""
    return len(acl.entries) == 3


def mode_of(acl: Acl) -> int:
    """The nine permission bits that a file with this access ACL shows.

    The group's bits are the mask's where there is one: they bound what anybody named gets.
    """
    group = acl.permissions(Tag.MASK)
    if group is None:
        group = acl.permissions(Tag.GROUP)
    owner, other = acl.permissions(Tag.OWNER), acl.permissions(Tag.OTHER)
    assert owner is not None and group is not None and other is not None  # Acl is valid
    return owner << 6 | group << 3 | other


def with_mode(acl: Acl, mode: int) -> Acl:
    """The access ACL after chmod(`mode`): owner, other, and the mask or else the group."""
    bound = Tag.GROUP if acl.permissions(Tag.MASK) is None else Tag.MASK
    return acl.with_permissions(
        {Tag.OWNER: mode >> 6 & 7, bound: mode >> 3 & 7, Tag.OTHER: mode & 7}
    )


def inherit(default: Acl, mode: int, is_directory: bool) -> tuple[Acl | None, int, Acl | None]:
    """What an entry made in a directory with the ACL `default` gets: (access, mode, default).

    `mode` is the requested one, not masked by the umask: a default ACL takes the umask's place.
    Its bits above the nine are kept. The access ACL is None when the new mode says it all; a
    default ACL goes on to directories only. Not for symbolic links: those inherit nothing.
    """
    shown = mode_of(default)
    granted = mode & ~0o777 | mode & shown
    access = with_mode(default, granted)
    return (
        None if is_minimal(access) else access,
        granted,
        default if is_directory else None,
    )
