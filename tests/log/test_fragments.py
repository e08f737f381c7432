"""Fragments on their drives: which file is believed, what stays open, what is a stray."""

from __future__ import annotations

import errno
import random
import threading

import pytest

from shmr.errors import DriveError, IntegrityError
from shmr.format.fragment import BLOCK
from shmr.log import fragments
from shmr.log.fragments import FragmentName, FragmentStore, parse_name
from shmr.testing.contract import fails_with
from shmr.testing.drive import World
from shmr.testing.faults import Fault
from tests.archived import FILESYSTEM, UNIT, Pool, drive_id

CONTENT = random.Random(1).randbytes(5 * UNIT)


@pytest.fixture
def pool() -> Pool:
    return Pool(2, 1)


def test_a_unit_comes_back_from_its_fragment(pool: Pool) -> None:
    archived = pool.write(9, CONTENT)
    units = pool.units(archived, CONTENT)
    store = pool.store()
    for index in range(3):
        assert store.read(9, archived, index, [2, 0]) == {
            unit: units[index][unit] for unit in (0, 2)
        }


def test_neighbouring_units_are_read_in_one_call_behind_one_read_of_the_footer(pool: Pool) -> None:
    archived = pool.write(9, CONTENT)
    store = pool.store()
    pool.lull()
    store.read(9, archived, 0, [0, 1, 2])
    assert pool.reads() == 2
    store.read(9, archived, 0, [0, 2])
    assert pool.reads() == 4


def test_a_sector_that_cannot_be_read_costs_its_unit_only(pool: Pool) -> None:
    archived = pool.write(9, CONTENT)
    store = pool.store()
    store.footer(9, archived, 0)
    world = pool.world
    # The call for all three fails, then the one for the second of them.
    world.fail(world.reads, Fault.READ)
    world.fail(world.reads + 2, Fault.READ)
    found = store.read(9, archived, 0, [0, 1, 2])
    assert isinstance(found[1], DriveError)
    assert found[0] == CONTENT[:UNIT] and found[2] == CONTENT[2 * UNIT : 3 * UNIT]


@pytest.mark.parametrize("part", ["header", "first unit", "last unit", "table", "footer", "tail"])
def test_a_flipped_byte_is_noticed_where_it_matters(pool: Pool, part: str) -> None:
    archived = pool.write(9, CONTENT)
    header = archived.header(FILESYSTEM, 9, 0)
    offset = {
        "header": 100,
        "first unit": BLOCK + 17,
        "last unit": header.table_offset - 1,
        "table": header.table_offset,
        "footer": header.footer_offset + BLOCK + 40,
        "tail": header.length - 1,
    }[part]
    pool.flip(9, archived, 0, offset)
    store = pool.store()
    if part in ("footer", "tail"):
        with pytest.raises(IntegrityError, match="footer"):
            store.read(9, archived, 0, [0])
        return
    found = store.read(9, archived, 0, [0, 1, 2])
    bad = {"first unit": {0}, "last unit": {2}}.get(part, set())
    assert {unit for unit, content in found.items() if isinstance(content, Exception)} == bad


def test_another_fragment_in_its_place_is_not_believed(pool: Pool) -> None:
    archived = pool.write(9, CONTENT)
    content = pool.content_of(9, archived, 1)
    pool.drive_of(archived, 0).plant(pool.file_of(9, archived, 0), 0, content)
    with pytest.raises(IntegrityError, match="fragment is 1, expected 0"):
        pool.store().read(9, archived, 0, [0])


def test_an_older_generation_in_its_place_is_not_believed(pool: Pool) -> None:
    old = pool.write(9, CONTENT)
    new = pool.write(9, CONTENT, generation=2)
    content = pool.content_of(9, old, 0)
    pool.drive_of(new, 0).plant(pool.file_of(9, new, 0), 0, content)
    with pytest.raises(IntegrityError, match="generation is 1, expected 2"):
        pool.store().read(9, new, 0, [0])


def test_a_fragment_of_another_filesystem_is_not_believed(pool: Pool) -> None:
    archived = pool.write(9, CONTENT)
    with pytest.raises(IntegrityError, match="filesystem"):
        FragmentStore(bytes(16), pool.drives).read(9, archived, 0, [0])


def test_a_fragment_written_for_another_drive_is_not_believed(pool: Pool) -> None:
    archived = pool.write(9, CONTENT)
    swapped = archived._replace(
        fragments=(archived.fragments[1], archived.fragments[0], archived.fragments[2])
    )
    content = pool.content_of(9, archived, 0)
    drive = pool.drive_of(archived, 1)
    drive.put(pool.file_of(9, archived, 0), content)
    with pytest.raises(IntegrityError, match="another drive"):
        pool.store().read(9, swapped, 0, [0])


def test_a_fragment_cut_short_is_not_believed(pool: Pool) -> None:
    archived = pool.write(9, CONTENT)
    length = archived.header(FILESYSTEM, 9, 0).length
    for size in (length - 1, BLOCK, 0):
        pool.drive_of(archived, 0).shorten(pool.file_of(9, archived, 0), size)
        with pytest.raises(IntegrityError):
            pool.store().read(9, archived, 0, [0])


def test_m_may_have_changed_since_a_fragment_was_written(pool: Pool) -> None:
    archived = pool.write(9, CONTENT)
    raised = archived._replace(
        m=2, fragments=(*archived.fragments, archived.fragments[0]._replace(drive=drive_id(9)))
    )
    assert pool.store().read(9, raised, 0, [0]) == {0: CONTENT[:UNIT]}


def test_a_missing_drive_is_a_drive_error_that_says_so(pool: Pool) -> None:
    archived = pool.write(9, CONTENT)
    lost = pool.ids[0]
    store = pool.store(without=[lost])
    assert store.missing == {lost}
    with pytest.raises(DriveError, match="missing"):
        store.read(9, archived, 0, [0])
    with pytest.raises(DriveError, match="missing"):
        store.claim(lost, 10, 0, 1, UNIT)
    assert not store.discard(lost, 9, 0, 1)


def test_names_are_found_whatever_else_lies_on_the_drive(pool: Pool) -> None:
    archived = pool.write(9, CONTENT)
    drive = pool.drive_of(archived, 0)
    drive.put("superblock-000001", b"x")
    drive.put("fragment-9-0-1", b"x")
    found = pool.store().scan()
    assert found[pool.ids[0]] == [FragmentName(9, 0, 1)]
    assert all(len(names) == 1 for names in found.values())
    drive.lose()
    assert set(pool.store().scan()) == set(pool.ids[1:])


@pytest.mark.parametrize("name", [(1, 0, 1), (10**12 + 5, 31, 10**6), (999_999_999_999, 7, 999)])
def test_a_name_is_read_as_it_is_written(name: tuple[int, int, int]) -> None:
    assert parse_name(FragmentName(*name).file) == name
    for other in ("fragment-", "x" + FragmentName(*name).file, FragmentName(*name).file + "0x"):
        assert parse_name(other) is None


def test_what_was_discarded_is_gone_and_may_be_discarded_again(pool: Pool) -> None:
    archived = pool.write(9, CONTENT)
    store = pool.store()
    store.read(9, archived, 0, [0])
    assert store.discard(pool.ids[0], 9, 0, 1)
    assert store.discard(pool.ids[0], 9, 0, 1)
    with pytest.raises(DriveError):
        store.read(9, archived, 0, [0])
    assert store.scan()[pool.ids[0]] == []


def test_a_claim_where_a_stray_lies_is_refused(pool: Pool) -> None:
    pool.write(9, CONTENT)
    store = pool.store()
    fails_with(errno.EEXIST, "claim", lambda: store.claim(pool.ids[0], 9, 0, 1, UNIT))


def test_few_files_stay_open_and_none_that_is_read_is_closed(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fragments, "OPEN_MAX", 2)
    rows = {number: pool.write(number, CONTENT) for number in range(1, 9)}
    store = pool.store()
    failures: list[Exception] = []

    def read(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(100):
            number = dice.randrange(1, 9)
            try:
                assert store.read(number, rows[number], 0, [1])[1] == CONTENT[UNIT : 2 * UNIT]
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(store._open) <= 2 + len(threads)
    for drive in store.in_use():
        store.close(drive)
    assert not store._open


def test_a_drive_that_failed_is_asked_anew(pool: Pool) -> None:
    archived = pool.write(9, CONTENT)
    store = pool.store()
    store.read(9, archived, 0, [0])
    world: World = pool.world
    world.fail(world.reads, Fault.READ)
    found = store.read(9, archived, 0, [0])
    assert isinstance(found[0], DriveError)
    assert store.read(9, archived, 0, [0]) == {0: CONTENT[:UNIT]}
