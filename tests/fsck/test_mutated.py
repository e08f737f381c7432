"""Mutated drives, sealed anew, decoded: cases of some seeds, and those that once found something.

`tools/fuzz_decode.py` makes more, and prints what it finds as hex.
"""

from __future__ import annotations

from itertools import islice

import pytest

from tests.fsck.mutated import attempt, cases, mutated, original, parts_of

FOUND = {
    # A snapshot at a place in the journal that is beyond every file.
    "place": (
        "0603baddf727340617cdf0966902d57320184e896ee6444bec86f5b4cbfb817880d93153c7dee835243d9c0e"
        "9f98e534ba656bca7b46adfa1e691490"
    ),
}


@pytest.mark.parametrize("which", FOUND)
def test_what_was_found_once_stays_mended(which: str) -> None:
    attempt(bytes.fromhex(FOUND[which]))


@pytest.mark.parametrize("seed", range(8))
def test_mutated_drives_are_decoded_or_refused(seed: int) -> None:
    for content in islice(cases(seed), 5):
        attempt(content)


def test_without_mutations_the_image_is_the_original() -> None:
    """Taken apart and put together again it is the same: mutations are of what was meant."""
    for image in original():
        for name, content in image.items():
            assert parts_of(name, content).encode() == content.rstrip(b"\0").ljust(
                len(parts_of(name, content).encode()), b"\0"
            ), name
    assert [set(one) for one in mutated(b"\x07")] == [set(one) for one in original()]
