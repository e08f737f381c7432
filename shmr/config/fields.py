"""Fields of a document by type: text, numbers, sizes, times, shares, paths, each checked.

Each method takes the mapping, the key and the mapping's place, reports what is wrong, and returns
a value of the right type in any case: None (or an empty value) where the field is absent or a
mistake. That a field is required is for `FieldReader.fields` to say.

Paths: one that is not absolute starts at the directory of the configuration file; symbolic links
are resolved, so that two names of one directory are seen as one.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from shmr.config.document import Problems, Value, below, describe, shown
from shmr.units import KIB, NS_PER_S, format_size, parse_size

_ALIGNMENT = 4 * KIB
_PATH_BYTES_MAX = 4095
_LINKS_MAX = 40
"""As many as Linux follows in one path."""
_AGE_MAX_NS = 1000 * 365 * 86_400 * NS_PER_S

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
_AGE = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) *(s|min|h|d|w)")
_AGES_S = {"s": 1, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?) *%")
_YES, _NO = ("true", "yes", "on"), ("false", "no", "off")


class FieldReader:
    """Reads fields, and reports to `problems`. `directory` is where relative paths start."""

    def __init__(self, problems: Problems, directory: Path) -> None:
        self.report = problems.add
        self.problems = problems
        self.directory = directory

    def fields(
        self, value: Value, place: str, known: Iterable[str], *, required: Iterable[str]
    ) -> Mapping[str, Value]:
        """The entries of a mapping; unknown and missing ones are reported."""
        known = tuple(known)
        if not isinstance(value, Mapping):
            keys = ", ".join(known)
            self.report(place, f"expected a mapping with {keys}; found {describe(value)}")
            return {}
        for key in value:
            if key not in known:
                likely = difflib.get_close_matches(key[:64], known, n=1)
                hint = f"did you mean {likely[0]}?" if likely else f"known are {', '.join(known)}"
                self.report(below(place, key), f"unknown; {hint}")
        for key in required:
            if key not in value:
                self.report(below(place, key), "missing")
        return {key: value[key] for key in known if key in value}

    def list_of(self, value: Value, place: str, noun: str) -> Sequence[Value]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            self.report(place, f"expected a list with at least one {noun}, found {describe(value)}")
            return ()
        if not value:
            self.report(place, f"expected at least one {noun}, found an empty list")
        return value

    def name(self, fields: Mapping[str, Value], key: str, place: str) -> str:
        if key not in fields:
            return ""
        value = fields[key]
        if isinstance(value, str) and _NAME.fullmatch(value):
            return value
        self.report(
            below(place, key),
            "expected a name of up to 64 letters, digits, dots, dashes and underscores that "
            f"begins with a letter or digit, found {describe(value)}",
        )
        return ""

    def number(
        self, fields: Mapping[str, Value], key: str, place: str, least: int, most: int
    ) -> int | None:
        if key not in fields:
            return None
        value = fields[key]
        if isinstance(value, str) and _NUMBER.fullmatch(value) and least <= int(value) <= most:
            return int(value)
        self.report(
            below(place, key),
            f"expected a whole number from {least} to {most}, found {describe(value)}",
        )
        return None

    def truth(self, fields: Mapping[str, Value], key: str, place: str) -> bool:
        if key not in fields:
            return False
        value = fields[key]
        word = value.lower() if isinstance(value, str) else ""
        if word not in _YES + _NO:
            self.report(below(place, key), f"expected true or false, found {describe(value)}")
        return word in _YES

    def size(
        self, fields: Mapping[str, Value], key: str, place: str, least: int, most: int
    ) -> int | None:
        if key not in fields:
            return None
        value, where = fields[key], below(place, key)
        size_bytes = self.amount(fields, key, place)
        if size_bytes is None:
            return None
        if not least <= size_bytes <= most:
            self.report(
                where,
                f"expected {format_size(least)} to {format_size(most)}, found {describe(value)}",
            )
            return None
        if size_bytes % _ALIGNMENT:
            self.report(where, f"expected a multiple of 4 KiB, found {size_bytes} bytes")
            return None
        return size_bytes

    def amount(self, fields: Mapping[str, Value], key: str, place: str) -> int | None:
        """A size without limits: what a file is compared with."""
        if key not in fields:
            return None
        value = fields[key]
        try:
            return parse_size(value if isinstance(value, str) else "")
        except (ValueError, OverflowError):
            found = describe(value)
            expected = "expected a size such as 256MiB or 100GiB"
            self.report(below(place, key), f"{expected}, found {found}")
            return None

    def age(self, fields: Mapping[str, Value], key: str, place: str) -> int | None:
        """Nanoseconds."""
        if key not in fields:
            return None
        value = fields[key]
        match = _AGE.fullmatch(value) if isinstance(value, str) else None
        age_ns = round(float(match[1]) * _AGES_S[match[2]] * NS_PER_S) if match else -1
        if 0 <= age_ns <= _AGE_MAX_NS:
            return age_ns
        self.report(
            below(place, key),
            "expected a time such as 30min, 12h, 30d or 8w (a month is 30d, a year 365d), found "
            f"{describe(value)}",
        )
        return None

    def share(self, fields: Mapping[str, Value], key: str, place: str) -> float | None:
        """More than nothing and less than all, as a fraction."""
        if key not in fields:
            return None
        value = fields[key]
        match = _SHARE.fullmatch(value) if isinstance(value, str) else None
        if match and 0 < float(match[1]) < 100:
            return float(match[1]) / 100
        self.report(
            below(place, key),
            f"expected a share above 0% and below 100%, such as 20%, found {describe(value)}",
        )
        return None

    def path_of(self, fields: Mapping[str, Value], key: str, place: str) -> Path | None:
        return self.path(fields[key], below(place, key)) if key in fields else None

    def path(self, value: Value, place: str) -> Path | None:
        if not isinstance(value, str) or not value:
            self.report(place, f"expected a path, found {describe(value)}")
            return None
        if value.startswith("~"):
            self.report(place, f"~ is not expanded here, write the whole path: {shown(value)}")
            return None
        try:
            long = len(os.fsencode(value)) > _PATH_BYTES_MAX
        except UnicodeEncodeError:
            long = True
        if long or any(ord(character) < 32 for character in value):
            self.report(place, f"not a path that a system call takes: {shown(value)}")
            return None
        return _resolved(self.directory / value)


def _resolved(path: Path) -> Path:
    """`path` with all symbolic links followed; what does not exist stays as it is.

    os.path.realpath asks for the attributes of each directory, which a disk that hangs does not
    give. That a directory is no link, readlink(2) tells without asking its disk.
    """
    rest = os.path.join(os.getcwd(), path).split("/")[::-1]
    found, links = "/", 0
    while rest:
        name = rest.pop()
        if name in ("", "."):
            continue
        if name == "..":
            found = os.path.dirname(found)
            continue
        try:
            target = os.readlink(os.path.join(found, name))
        except OSError:
            target = None
        links += target is not None
        if target is None or links > _LINKS_MAX:
            found = os.path.join(found, name)
            continue
        rest += target.split("/")[::-1]
        if target.startswith("/"):
            found = "/"
    return Path(found)
