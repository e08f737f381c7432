"""The mounted daemon: what `shmr create`, `shmr mount` and `shmr umount` do."""

from shmr.service.create import create
from shmr.service.mount import mount
from shmr.service.unmount import unmount

__all__ = ["create", "mount", "unmount"]
