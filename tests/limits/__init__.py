"""The ends of things on a real mount: full drives, many files, odd requests, idleness."""
