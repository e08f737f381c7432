"""What commands do: the mounted daemon, and looking at a filesystem from outside."""

from shmr.service.compact import compact
from shmr.service.create import create
from shmr.service.drive_add import drive_add
from shmr.service.drive_leave import drive_forget, drive_remove
from shmr.service.drive_list import drive_list
from shmr.service.drive_move import drive_drain, drive_rebalance, drive_replace
from shmr.service.drive_state import drive_state
from shmr.service.mount import mount
from shmr.service.overview import overview
from shmr.service.redundancy import redundancy
from shmr.service.topology import topology
from shmr.service.unmount import unmount

__all__ = [
    "compact",
    "create",
    "drive_add",
    "drive_drain",
    "drive_forget",
    "drive_list",
    "drive_rebalance",
    "drive_remove",
    "drive_replace",
    "drive_state",
    "mount",
    "overview",
    "redundancy",
    "topology",
    "unmount",
]
