"""Bytes to values and back. FORMAT.md beside this file says the same in tables.

Nothing here waits, reads a clock, opens a file or throws dice. Every `decode` takes any bytes
at all and returns a value or raises `IntegrityError`.
"""
