"""The conformance suite: what a program may expect of a filesystem, by the measure of ext4."""
