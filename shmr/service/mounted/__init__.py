"""The mounted filesystem: its daemon, what that does beside requests, mounting and unmounting."""
