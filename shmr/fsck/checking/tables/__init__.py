"""The catalog against itself: what its rows say of each other.

    check     the tables one after the other, and what is wrong in them
    inodes    inodes with their extents, attributes and marks
    names     names, the order they are read in, and what they lead to
    reach     which directories the root leads to
    states    the tables that belong to no inode
    census    what is remembered of each inode meanwhile
    flaw      something wrong, and what would mend it

Rows are read in the order of their keys, once each, and tables with one order are read side by
side. What is remembered is some 25 bytes for an inode.
"""
