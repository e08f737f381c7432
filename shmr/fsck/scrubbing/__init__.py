"""Every byte of every drive, read and verified: the parts of `shmr.fsck.scrubbing.scrub`.

inventory   what a drive should hold, in the order in which it lies there
reading     one file from front to back, however sick its drive
fragment    is every byte of a fragment what its sums say?
frames      is every byte of a segment's copy what its headers say?
lanes       a thread for each drive; how far it is, and whether it answers
note        how far each drive is, kept beside the catalog
judging     what is damaged, and which files are concerned
mending     what redundancy allows, written anew
"""
