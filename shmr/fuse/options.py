"""Mount options: the text after `-o`, as one frozen value.

What people know from mount(8) is understood; what shmr cannot honour is refused with a reason,
never ignored. `default_permissions` is always on: the kernel checks modes and POSIX ACLs, so
there is one place that decides, and no request is spent on asking.

When root mounts, `allow_other` is on unless refused with `noallow_other`: root mounts for a
machine, and a tree that only root can enter would surprise every other user and every service;
the permissions inside the tree still decide. When a user mounts, it is off, as the kernel's
default is, because a user's daemon could otherwise stall or spy on other users' programs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from shmr.errors import SetupError


class Atime(Enum):
    """When reading a file changes its access time."""

    NEVER = "noatime"
    RELATIVE = "relatime"


@dataclass(frozen=True, slots=True)
class MountOptions:
    """What the mount allows and promises."""

    read_only: bool = False
    allow_other: bool = False
    suid: bool = False
    dev: bool = False
    exec: bool = True
    atime: Atime = Atime.RELATIVE


_MEANINGS: dict[str, dict[str, Any]] = {
    "ro": {"read_only": True},
    "rw": {"read_only": False},
    "allow_other": {"allow_other": True},
    "noallow_other": {"allow_other": False},
    "suid": {"suid": True},
    "nosuid": {"suid": False},
    "dev": {"dev": True},
    "nodev": {"dev": False},
    "exec": {"exec": True},
    "noexec": {"exec": False},
    "noatime": {"atime": Atime.NEVER},
    "relatime": {"atime": Atime.RELATIVE},
    "atime": {"atime": Atime.RELATIVE},
    "default_permissions": {},
    # What stands in /etc/fstab for other readers than the filesystem.
    **{word: {} for word in ("defaults", "auto", "noauto", "nofail", "_netdev")},
}

_REFUSALS = {
    "allow_root": "not supported: use allow_other, the modes inside decide",
    "strictatime": "not supported, most reads are the kernel's own: relatime or noatime",
}

_NEEDS_ROOT = {"suid", "dev"}


def parse_options(texts: Iterable[str], *, privileged: bool) -> MountOptions:
    """`texts` such as ["ro,noexec", "allow_other"] as a value; later words win.

    `privileged`: whether root mounts. Raises SetupError naming the first word that cannot stand.
    """
    options = MountOptions(allow_other=privileged)
    for word in (word.strip() for text in texts for word in text.split(",")):
        if not word or word.startswith("x-"):
            continue
        if word in _REFUSALS:
            raise SetupError(f"mount option {word}: {_REFUSALS[word]}")
        if word not in _MEANINGS:
            known = ", ".join(sorted(_MEANINGS))
            raise SetupError(f"unknown mount option {word!r}; known are: {known}")
        if word in _NEEDS_ROOT and not privileged:
            raise SetupError(f"mount option {word}: only root may mount with it")
        options = replace(options, **_MEANINGS[word])
    return options
