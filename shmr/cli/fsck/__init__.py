"""The command `shmr-fsck`: one module for each of its subcommands."""
