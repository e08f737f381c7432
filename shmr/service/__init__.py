"""What commands do: mounting, moving, changing drives, looking; and what these share."""

from shmr.service.create import create
from shmr.service.drives.add import drive_add
from shmr.service.drives.leave import drive_forget, drive_remove
from shmr.service.drives.list import drive_list
from shmr.service.drives.move import drive_drain, drive_rebalance, drive_replace
from shmr.service.drives.redundancy import redundancy
from shmr.service.drives.state import drive_state
from shmr.service.looking.overview import overview
from shmr.service.looking.topology import topology
from shmr.service.mounted.mount import mount
from shmr.service.mounted.unmount import unmount
from shmr.service.moving.compact import compact

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
