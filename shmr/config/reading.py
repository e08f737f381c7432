"""From the text of a configuration to a `Config`, or to the list of everything wrong with it.

Each `_read_*` function takes a value and its place, reports what is wrong with it, and returns a
value of the right type in any case: a placeholder after a mistake. So one mistake hides no other,
and no placeholder gets out, because `parse` raises when anything was reported.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from shmr.config.document import (
    Problems,
    SyntaxMistake,
    Value,
    below,
    describe,
    parse_document,
)
from shmr.config.fields import FieldReader
from shmr.config.places import check_places, check_status_file, default_catalog
from shmr.config.rules import check_rules, read_rules
from shmr.config.values import (
    CODES,
    DEFAULT_CLEAN_AT,
    DEFAULT_CODE,
    DEFAULT_READ_DEADLINE_NS,
    DEFAULT_ZONE_BYTES,
    Config,
    DriveConfig,
    PoolConfig,
    Scheme,
)
from shmr.errors import ConfigError
from shmr.format.fragment import WIDTH_MAX
from shmr.units import GIB, MIB, NS_PER_S, PIB, format_size

_FILE_BYTES_MAX = MIB
_ZONE_BYTES = (MIB, 4 * GIB)
_DRIVE_BYTES_MAX = 1024 * PIB
_PRIORITY_MAX = 1_000_000
_READ_DEADLINE_NS = (NS_PER_S // 10, 3600 * NS_PER_S)


_ERASURE_WORKSPACE = (
    "the pool of priority 0 is where writes land and cannot be an erasure pool: a workspace is "
    "replicated while it is open (single or mirror) and coded when it is shifted to a pool of "
    "another priority"
)
_VAND = (
    "isa_l_rs_vand cannot decode every loss of m drives (6+5 and 22+4, for example); "
    f"use {DEFAULT_CODE}"
)


def load(path: str | os.PathLike[str]) -> Config:
    """The configuration in the file `path`. Raises ConfigError with all that is wrong in it."""
    source = os.fspath(path)
    try:
        with open(source, "rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(source, [f"cannot be read: {reason}"]) from None
    if len(content) > _FILE_BYTES_MAX:
        raise ConfigError(source, [f"longer than {format_size(_FILE_BYTES_MAX)}"])
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(source, [f"line {line}: not UTF-8"]) from None
    return parse(text, source)


def parse(text: str, source: str) -> Config:
    """The configuration that `text` says; `source` is the path of its file, which need not exist.

    Raises ConfigError.
    """
    problems = Problems()
    file = Path(os.path.abspath(source))
    try:
        document = parse_document(text, problems)
    except SyntaxMistake as error:
        raise ConfigError(source, [str(error)]) from None
    config = _Reader(problems, file.parent).config(document, file)
    if problems.lines:
        raise ConfigError(source, problems.lines)
    return config


class _Reader(FieldReader):
    """Reads the parts of one document."""

    def config(self, document: Value, file: Path) -> Config:
        keys = ("filesystem", "catalog", "same_device", "status_file", "read_deadline", "pools")
        fields = self.fields(document, "", keys, required=("filesystem", "pools"))
        items = self.list_of(fields["pools"], "pools", "pool") if "pools" in fields else []
        pools = [self.pool(item, f"pools[{index}]") for index, item in enumerate(items)]
        self.compare_pools(pools)
        workspace = next((pool for pool in pools if pool.priority == 0), None)
        catalog = self.path_of(fields, "catalog", "")
        if catalog is None and workspace and workspace.drives:
            catalog = default_catalog(workspace)
        check_places(pools, catalog, self.problems)
        check_rules(pools, self.problems)
        status_file = self.path_of(fields, "status_file", "")
        if status_file is not None:
            check_status_file(status_file, pools, catalog, file, self.problems)
        return Config(
            filesystem=self.name(fields, "filesystem", ""),
            catalog=catalog or Path(),
            pools=tuple(sorted(pools, key=lambda pool: pool.priority)),
            path=file,
            same_device=self.truth(fields, "same_device", ""),
            status_file=status_file,
            read_deadline_ns=self.read_deadline(fields),
        )

    def read_deadline(self, fields: Mapping[str, Value]) -> int:
        deadline_ns = self.age(fields, "read_deadline", "")
        if deadline_ns is None:
            return DEFAULT_READ_DEADLINE_NS
        least, most = _READ_DEADLINE_NS
        if not least <= deadline_ns <= most:
            found = describe(fields["read_deadline"])
            self.report("read_deadline", f"expected 0.1s to 1h, found {found}")
        return deadline_ns

    def pool(self, value: Value, place: str) -> PoolConfig:
        required = ("name", "priority", "scheme", "drives")
        keys = (*required, "zone_size", "segment_size", "clean_at", "rules")
        fields = self.fields(value, place, keys, required=required)
        priority = self.number(fields, "priority", place, 0, _PRIORITY_MAX)
        scheme = Scheme("single")
        if "scheme" in fields:
            scheme = self.scheme(fields["scheme"], below(place, "scheme"))
        if priority == 0 and scheme.kind == "erasure":
            self.report(below(place, "scheme"), _ERASURE_WORKSPACE)
        foreign, counterpart = (
            ("zone_size", "segment_size") if priority == 0 else ("segment_size", "zone_size")
        )
        if priority is not None and foreign in fields:
            self.report(
                below(place, foreign),
                f"has no meaning in a pool of priority {priority}; there it is {counterpart}",
            )
        if priority == 0 and "clean_at" in fields:
            self.report(
                below(place, "clean_at"),
                "has no meaning in a pool of priority 0, which cleans itself while mounted",
            )
        zone = self.size(fields, "zone_size", place, *_ZONE_BYTES) or DEFAULT_ZONE_BYTES
        segment = self.size(fields, "segment_size", place, *_ZONE_BYTES)
        # An archive drive keeps a zone in reserve, and has a superblock and room to spare for it.
        smallest = (segment or _ZONE_BYTES[0]) if priority == 0 else 2 * zone + MIB
        drives = self.drives(fields, place, scheme, smallest)
        rules_at = below(place, "rules")
        return PoolConfig(
            name=self.name(fields, "name", place),
            priority=-1 if priority is None else priority,
            scheme=scheme,
            drives=drives,
            zone_size_bytes=zone,
            segment_size_bytes=segment,
            rules=read_rules(self, fields["rules"], rules_at) if "rules" in fields else None,
            clean_at=self.share(fields, "clean_at", place) or DEFAULT_CLEAN_AT,
        )

    def scheme(self, value: Value, place: str) -> Scheme:
        if value == "single":
            return Scheme("single")
        if isinstance(value, Mapping) and len(value) == 1:
            if "mirror" in value:
                copies = self.number(value, "mirror", place, 2, WIDTH_MAX)
                return Scheme("mirror", k=1, m=(copies or 2) - 1)
            if "erasure" in value:
                return self.erasure(value["erasure"], below(place, "erasure"))
        forms = "single, {mirror: 2} or {erasure: {k: 4, m: 2}}"
        self.report(place, f"expected {forms}, found {describe(value)}")
        return Scheme("single")

    def erasure(self, value: Value, place: str) -> Scheme:
        fields = self.fields(value, place, ("k", "m", "code"), required=("k", "m"))
        k = self.number(fields, "k", place, 1, WIDTH_MAX - 1)
        m = self.number(fields, "m", place, 1, WIDTH_MAX - 1)
        if k == 1:
            self.report(below(place, "k"), "one part of data and copies of it is {mirror: m + 1}")
        if k and m and k + m > WIDTH_MAX:
            self.report(place, f"k + m is at most {WIDTH_MAX}, found {k + m}")
        code = fields.get("code", DEFAULT_CODE)
        if code == "isa_l_rs_vand":
            self.report(below(place, "code"), _VAND)
        elif code not in CODES:
            expected = " or ".join(CODES)
            self.report(below(place, "code"), f"expected {expected}, found {describe(code)}")
        return Scheme("erasure", k=k or 1, m=m or 0, code=str(code))

    def drives(
        self, pool: Mapping[str, Value], place: str, scheme: Scheme, smallest_bytes: int
    ) -> tuple[DriveConfig, ...]:
        if "drives" not in pool:
            return ()
        where = below(place, "drives")
        items = self.list_of(pool["drives"], where, "drive")
        if 0 < len(items) < scheme.width:
            self.report(where, f"{scheme} needs {scheme.width} drives or more, found {len(items)}")
        return tuple(
            self.drive(item, f"{where}[{index}]", smallest_bytes)
            for index, item in enumerate(items)
        )

    def drive(self, value: Value, place: str, smallest_bytes: int) -> DriveConfig:
        if isinstance(value, str):
            return DriveConfig(self.path(value, place) or Path())
        if not isinstance(value, Mapping):
            self.report(place, f"expected a path or a mapping with one, found {describe(value)}")
            return DriveConfig(Path())
        fields = self.fields(value, place, ("path", "mounted", "size"), required=("path",))
        return DriveConfig(
            path=self.path_of(fields, "path", place) or Path(),
            mounted=self.truth(fields, "mounted", place),
            size_bytes=self.size(fields, "size", place, smallest_bytes, _DRIVE_BYTES_MAX),
        )

    def compare_pools(self, pools: Sequence[PoolConfig]) -> None:
        """No two pools share a name or a priority; one has the priority 0."""
        names: dict[str, int] = {}
        priorities: dict[int, int] = {}
        for index, pool in enumerate(pools):
            if pool.name and names.setdefault(pool.name, index) != index:
                first = names[pool.name]
                self.report(f"pools[{index}].name", f"{pool.name} is also that of pools[{first}]")
            if pool.priority >= 0 and priorities.setdefault(pool.priority, index) != index:
                first = priorities[pool.priority]
                self.report(
                    f"pools[{index}].priority", f"{pool.priority} is also that of pools[{first}]"
                )
        if pools and all(pool.priority > 0 for pool in pools):
            self.report("pools", "no pool has priority 0, which is where writes land")
