"""The examples in the documentation are configurations that work."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from shmr.config import parse

CHECKOUT = Path(__file__).parents[2]


WHOLE = re.compile(r"^ *filesystem: .*\n(?:^ +.*\n|^[a-z].*\n)+", re.MULTILINE)


def examples() -> list[tuple[str, str]]:
    """(file, text) of every whole configuration in the pages for users."""
    return [
        (page, textwrap.dedent(block))
        for page in ("README.md", "docs/configuration.md")
        for block in WHOLE.findall((CHECKOUT / page).read_text(encoding="utf-8"))
    ]


@pytest.mark.parametrize(("file", "text"), examples())
def test_an_example_is_a_configuration(file: str, text: str) -> None:
    assert parse(text, file).filesystem


def test_the_documentation_has_examples() -> None:
    assert {file for file, _ in examples()} == {"README.md", "docs/configuration.md"}


def test_the_quickstart_configuration_is_one() -> None:
    script = (CHECKOUT / "scripts" / "quickstart").read_text()
    (text,) = re.findall(r"<<'YAML'\n(.*?)^YAML$", script, re.M | re.S)
    assert parse(text, "example.yaml").same_device
