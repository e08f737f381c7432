"""Choosing among very many files: the same as among few, in little memory."""

from __future__ import annotations

import random
import tracemalloc
from contextlib import ExitStack
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shmr.catalog import inodes
from shmr.config import load
from shmr.core import ordered
from shmr.core.ordered import RUN_RECORDS, Ordered
from shmr.format.rows import ROOT
from shmr.service.assemble import create_filesystem
from shmr.service.moving.choosing import Wish, chosen
from shmr.service.offline import unmounted
from shmr.testing.trial import scratch
from shmr.volume.attributes import AttributeChange
from shmr.volume.context import Caller

CONFIG = """\
filesystem: tests
same_device: true
pools:
  - name: work
    priority: 0
    scheme: single
    segment_size: 1MiB
    drives: [{{path: {base}/w, size: 256MiB}}]
    rules:
      - {{keep: work, path: "**/*7"}}
      - {{to: cold, older_than: 1d, path: ["d1/**", "**/*3"]}}
  - name: cold
    priority: 1
    scheme: single
    zone_size: 2MiB
    drives: [{base}/c1]
"""


@given(st.lists(st.binary(min_size=3, max_size=3)))
def test_records_come_back_in_order_each_as_often_as_it_was_added(records: list[bytes]) -> None:
    found = Ordered(3)
    for record in records:
        found.add(record)
    assert list(found) == sorted(records)


def test_runs_are_merged() -> None:
    rng = random.Random(1)
    records = [rng.randbytes(4) for _ in range(3 * RUN_RECORDS + 5)]
    found = Ordered(4)
    for record in records:
        found.add(record)
    assert list(found) == sorted(records)


DAY_NS = 86_400 * 10**9
NOW_NS = 1_800_000_000 * 10**9


def chosen_of(stack: ExitStack, count: int) -> int:
    """Bytes of memory that it takes to choose among so many files; they are the right ones."""
    base = stack.enter_context(scratch())
    for name in ("w", "c1"):
        (base / name).mkdir()
    path = base / "config.yaml"
    path.write_text(CONFIG.format(base=base))
    config = load(path)
    create_filesystem(config)
    rng = random.Random(count)
    me = Caller(0, 0)
    written: dict[int, int] = {}
    expected: list[tuple[int, int]] = []
    with unmounted(config, read_only=False) as (volume, _):
        tops = [volume.names.create(ROOT, b"d%d" % n, 0o040755, me).number for n in range(4)]
        for index in range(count):
            top, name = rng.randrange(4), b"%d" % index
            number = volume.names.create(tops[top], name, 0o100644, me).number
            volume.data.write(number, 0, b"x")
            age_ns = rng.randrange(4 * DAY_NS)
            volume.attributes.set(number, AttributeChange(mtime_ns=NOW_NS - age_ns))
            written[number] = NOW_NS - age_ns
            if age_ns > DAY_NS and not name.endswith(b"7") and (top == 1 or name.endswith(b"3")):
                expected.append((NOW_NS - age_ns, number))
    with unmounted(config, read_only=True) as (volume, pools):
        tracemalloc.start()
        try:
            [move] = chosen(config, volume, pools, Wish(), NOW_NS)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    found = [(written[number], number) for number in move.inodes]
    assert all(one < other for one, other in pairwise(found))
    assert found == sorted(expected)
    return peak


def test_a_million_files_take_less_than_a_hundred_mebibytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What each file of some thousands adds, when what does not grow is made small."""
    monkeypatch.setattr(inodes, "KNOWN_MAX", 256)
    monkeypatch.setattr(ordered, "RUN_RECORDS", 256)
    with ExitStack() as stack:
        few = chosen_of(stack, 1_000)
        many = chosen_of(stack, 5_000)
    each = (many - few) / 4_000
    constant = 16 * 2**20  # what was made small
    assert constant + few + 1_000_000 * each < 100 * 2**20, (few, each)
