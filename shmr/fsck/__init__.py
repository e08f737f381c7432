"""`shmr-fsck`: what is reached for when something broke. A room for each thing that it does:

    checking/     what is wrong, from metadata alone: the catalog against itself, and against drives
    scrubbing/    every byte read and verified, in the order of the disk
    mending/      what was found is put right, looked at again, and counted only then
    salvaging/    a catalog out of drives that nobody vouches for; the ground of the next three
    rebuilding/   what is lost made anew: a drive, the catalog, the workspace
    decoding/     files out of drives, and nothing else
    rehearsing/   a loss rehearsed, without touching anything

Shared by all: `findings`, the one language in which they report; `opening`, the filesystem as they
see it; `naming`, paths for what is found; `advice`, the command that is next.
"""
