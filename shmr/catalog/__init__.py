"""The catalog: an LMDB cache of the log that says what is where. LMDB is used only here.

It can always be rebuilt from the log, so everything doubtful about it is answered the same way:
set it aside and rebuild.
"""
