"""What it takes to doubt shmr: drives that fail, a model filesystem, and a contract suite.

* `faults`: which operation fails, and how; what a power cut leaves of unsynced writes.
* `drive`: simulated drives in memory, and the world that they share.
* `zoned`: a simulated shingled disk, which takes appends and whole-zone resets only.
* `contract`: what every drive must do; the real and the simulated one pass it.
* `model`: the filesystem as it ought to behave, in plain dictionaries.

Public: an own drive or an own tool can be tested with it. Nothing here touches a disk.
"""
