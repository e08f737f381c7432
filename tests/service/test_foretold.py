"""What the overview tells of drives and of the next shift, against what then happens."""

from __future__ import annotations

from pathlib import Path

from shmr import service
from shmr.config import load
from shmr.format.rows import ROOT
from shmr.service.offline import unmounted
from shmr.units import MIB
from shmr.volume.damage import note_damage
from tests.place import Place


def test_the_overview_foretells_what_the_compactor_does(place: Place) -> None:
    rules = """\
    rules:
      - {larger_than: 1MiB, to: work}
"""
    place.config.write_text(place.config.read_text() + rules)
    large = {name: len(c) for name, c in place.files.items() if len(c) > MIB}
    found = service.overview(place.config).next_shift
    (move,) = found.moves
    assert large and (move.files, move.size_bytes) == (len(large), sum(large.values()))
    cleaned = sum(view.live_bytes for view in found.cleanings)
    assert cleaned > 0
    assert service.compact(place.config).moved_bytes == move.size_bytes + cleaned
    assert service.overview(place.config).next_shift.moves == ()
    place.assert_files()


def test_damage_that_was_found_is_remembered_until_the_drive_is_empty(place: Place) -> None:
    path = next((place.base / "a").glob("fragment-*"))
    whole = path.read_bytes()
    path.write_bytes(bytes(byte ^ 255 for byte in whole))
    with unmounted(load(place.config), read_only=False) as (volume, _):
        for name, content in place.files.items():
            inode = volume.names.lookup(ROOT, name)
            plan = volume.data.plan_read(inode.number, 0, len(content))
            assert bytes(plan.fetch()) == content
            plan.release()
        found = len(volume.context.gather.findings.all())
    # What a later one finds less of is no news.
    with unmounted(load(place.config), read_only=False) as (volume, _):
        note_damage(volume.context)

    def errors() -> dict[str, int]:
        drives = service.overview(place.config).pools[1].drives
        return {Path(drive.path).name: drive.errors for drive in drives}

    # A fragment of parity is not read.
    assert errors() == {"a": found, "b": 0, "c": 0, "d": 0}
    service.drive_drain(place.config, place.path("a"))
    assert errors() == {"a": 0, "b": 0, "c": 0, "d": 0}
    place.assert_files()
