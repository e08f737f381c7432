"""The commands. Each parses, calls one function of the library, prints, returns an exit code."""
