"""The parts of a drill (`shmr.fsck.drill`).

choice      which drives it pretends to be gone
tree        the rebuilt catalog against the real one
contents    bytes read without those drives, and with them
"""
