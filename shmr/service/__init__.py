"""What commands do: the mounted daemon, and looking at a filesystem from outside."""

from shmr.service.compact import compact
from shmr.service.create import create
from shmr.service.mount import mount
from shmr.service.overview import overview
from shmr.service.topology import topology
from shmr.service.unmount import unmount

__all__ = ["compact", "create", "mount", "overview", "topology", "unmount"]
