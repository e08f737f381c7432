"""YAML text to plain values: text, lists, mappings and nothing; no guessing of types.

A scalar stays the text that stands in the file, so `name: no` is the name "no" and `010` is not
eight; what a number or a yes looks like is for the reader of a field to say. Aliases work.
Refused: keys given twice, keys that are not text, tags, values that contain themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import yaml

Value: TypeAlias = "str | Sequence[Value] | Mapping[str, Value] | None"

_PREFIX = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(
    _PREFIX + name
    for name in ("str", "int", "float", "bool", "null", "timestamp", "merge", "value")
)
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_SHOWN_LENGTH = 40


class Problems:
    """The mistakes found so far, each a line that begins with its place."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, place: str, message: str) -> None:
        self.lines.append(f"{place}: {message}" if place else message)


class SyntaxMistake(Exception):
    """The text is no YAML: nothing else can be said about it."""


def shown(text: str) -> str:
    """`text` in quotes, on one line, cut where it is too long for a message."""
    cut = text if len(text) <= _SHOWN_LENGTH else text[:_SHOWN_LENGTH] + "..."
    return repr(cut)


def describe(value: Value) -> str:
    """What was found, for a message that says what was expected."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return shown(value)
    return "a mapping" if isinstance(value, Mapping) else "a list"


def below(place: str, key: str) -> str:
    """The place of `key` in the mapping at `place`."""
    name = key if _PLAIN_KEY.fullmatch(key) else shown(key)
    return f"{place}.{name}" if place else name


def parse_document(text: str, problems: Problems) -> Value:
    """The value that `text` describes. Raises SyntaxMistake; lesser mistakes go to `problems`."""
    try:
        # Nodes only: a constructor would guess types, and drop repeated keys without a word.
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return _Conversion(problems).value(node, "") if node is not None else None
    except yaml.MarkedYAMLError as error:
        raise SyntaxMistake(_explain(error)) from None
    except yaml.YAMLError as error:
        raise SyntaxMistake(f"not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise SyntaxMistake("nested too deeply") from None
    except (ValueError, OverflowError):
        raise SyntaxMistake("an escape in quoted text is no character") from None


def _explain(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    what = ", ".join(part for part in (error.context, error.problem) if part)
    hint = ""
    if error.problem == "mapping values are not allowed here":
        hint = " (a mapping on the line of its key needs braces, as in scheme: {mirror: 2})"
    return f"{where}{what}{hint}"


class _Conversion:
    """Nodes of one document to values; a node that aliases share is converted once."""

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self._done: dict[int, Value] = {}
        self._open: set[int] = set()

    def value(self, node: yaml.Node, place: str) -> Value:
        if id(node) in self._done:
            return self._done[id(node)]
        if id(node) in self._open:
            self.problems.add(place, "this value contains itself")
            return None
        self._open.add(id(node))
        value = self._convert(node, place)
        self._open.discard(id(node))
        self._done[id(node)] = value
        return value

    def _convert(self, node: yaml.Node, place: str) -> Value:
        if isinstance(node, yaml.ScalarNode) and node.tag in _PLAIN_TAGS:
            return None if node.tag == _PREFIX + "null" else str(node.value)
        if isinstance(node, yaml.SequenceNode) and node.tag == _PREFIX + "seq":
            return [self.value(item, f"{place}[{index}]") for index, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode) and node.tag == _PREFIX + "map":
            return self._mapping(node, place)
        line = node.start_mark.line + 1
        self.problems.add(place, f"the tag {shown(node.tag)} has no meaning here (line {line})")
        return None

    def _mapping(self, node: yaml.MappingNode, place: str) -> dict[str, Value]:
        lines: dict[str, int] = {}
        values: dict[str, Value] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.add(place, f"a key is text, found something else (line {line})")
                continue
            key = str(key_node.value)
            if key in lines:
                first = lines[key]
                self.problems.add(below(place, key), f"given twice (lines {first} and {line})")
                continue
            lines[key] = line
            values[key] = self.value(value_node, below(place, key))
        return values
