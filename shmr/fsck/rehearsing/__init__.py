"""A loss rehearsed, without touching anything."""
