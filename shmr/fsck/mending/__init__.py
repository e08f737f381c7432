"""What a repair does about findings. Each module here has `MENDERS`, or is told of flaws (`rows`).

    rows             the catalog's rows, of a catalog that its log has no better
    fragments        fragments that are missing or damaged, written anew
    copies           copies of workspace segments, snapshots and superblocks

Whatever they do is cut off anywhere and done again: a mender looks at what is there now, and
does what is left to be done. Whether a finding is gone, only the check afterwards says.
"""
