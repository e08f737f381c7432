"""Samples to figures: medians, ratios, the list of goals, as text or as JSON.

A ratio is the median of the ratios of each round, not the ratio of two medians: a round's figures
were taken close together, so what disturbs the machine for a while disturbs both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from bench_kit.rows import ROWS


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure: a row on a target in a round; or `failure` says why there is none."""

    round: int
    target: str
    row: str
    per_second: float | None = None
    cpu_us: float | None = None
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Goal:
    """`row` on shmr is at least `at_least` times `other_row` on `other`."""

    row: str
    other: str
    at_least: float
    other_row: str

    def __str__(self) -> str:
        against = self.other if self.other_row == self.row else f"{self.other_row} on {self.other}"
        return f"{self.row} at least {self.at_least:g} x {against}"


GOALS = (
    Goal("seq_write", "native", 0.8, "seq_write"),
    Goal("seq_read_cold", "native", 0.8, "seq_read_cold"),
    Goal("create", "bindfs", 2.5, "create"),
    Goal("create_small", "bindfs", 2.5, "create_small"),
    Goal("ls_cold", "bindfs", 2.0, "ls_cold"),
    Goal("unlink", "bindfs", 2.0, "unlink"),
    Goal("rand_read_1", "bindfs", 0.7, "rand_read_1"),
    Goal("rand_read_16", "bindfs", 0.7, "rand_read_16"),
    Goal("durable_64", "shmr", 8.0, "durable_1"),
)


class Results:
    """All samples of a run, asked by row and target."""

    def __init__(self, samples: Sequence[Sample], targets: Sequence[str]) -> None:
        self.samples = samples
        self.targets = targets
        present = {sample.row for sample in samples}
        self.rows = [name for name in ROWS if name in present]

    def _by_round(self, row: str, target: str) -> dict[int, float]:
        return {
            sample.round: sample.per_second
            for sample in self.samples
            if sample.row == row and sample.target == target and sample.per_second is not None
        }

    def median(self, row: str, target: str) -> float | None:
        values = self._by_round(row, target).values()
        return median(values) if values else None

    def spread(self, row: str, target: str) -> float | None:
        """Half of what lies between the best and the worst round, as a part of the median."""
        values = self._by_round(row, target).values()
        return (max(values) - min(values)) / 2 / median(values) if values else None

    def cpu_us(self, row: str, target: str) -> float | None:
        values = [
            sample.cpu_us
            for sample in self.samples
            if sample.row == row and sample.target == target and sample.cpu_us is not None
        ]
        return median(values) if values else None

    def ratio(self, row: str, target: str, other: str, other_row: str = "") -> float | None:
        """The median over the rounds of row on target : other_row (default: row) on other."""
        ours, theirs = self._by_round(row, target), self._by_round(other_row or row, other)
        shared = [ours[n] / theirs[n] for n in ours.keys() & theirs.keys() if theirs[n] > 0]
        return median(shared) if shared else None

    def goals(self) -> Iterator[tuple[Goal, float | None]]:
        for goal in GOALS:
            yield goal, self.ratio(goal.row, "shmr", goal.other, goal.other_row)

    def failures(self) -> list[Sample]:
        return [sample for sample in self.samples if sample.failure is not None]


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _with_spread(results: Results, row: str, target: str) -> str:
    spread = results.spread(row, target)
    number = _number(results.median(row, target))
    return number if spread is None else f"{number} ±{spread:3.0%}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _table(header: list[str], lines: list[list[str]]) -> str:
    """Columns aligned in Markdown, so that a table can go into a document as it is."""
    widths = [max(len(line[n]) for line in [header, *lines]) for n in range(len(header))]

    def one(cells: list[str]) -> str:
        first = cells[0].ljust(widths[0])
        rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join([first, *rest])} |"

    rule = f"|{'-' * (widths[0] + 2)}|{'|'.join('-' * (width + 1) + ':' for width in widths[1:])}|"
    return "\n".join([one(header), rule, *map(one, lines)])


def as_text(results: Results) -> str:
    """The tables for a person."""
    parts = [_throughput(results), _cpu(results), _goals(results)]
    failures = [
        f"  round {sample.round}, {sample.target}, {sample.row}: {sample.failure}"
        for sample in results.failures()
    ]
    if failures:
        parts.append("No figure:\n" + "\n".join(failures))
    return "\n\n".join(part for part in parts if part)


def _throughput(results: Results) -> str:
    compared = [("native", target) for target in results.targets if target != "native"]
    compared = compared if "native" in results.targets else []
    if {"shmr", "bindfs"} <= set(results.targets):
        compared.append(("bindfs", "shmr"))
    header = ["row", "unit", *results.targets, *(f"{b}/{a}" for a, b in compared)]
    lines = [
        [
            row,
            ROWS[row].unit,
            *(_with_spread(results, row, target) for target in results.targets),
            *(_ratio(results.ratio(row, b, a)) for a, b in compared),
        ]
        for row in results.rows
    ]
    title = "Medians (more is better; ± half the range of the rounds) and median ratios"
    return f"{title}\n\n{_table(header, lines)}"


def _cpu(results: Results) -> str:
    served = [target for target in results.targets if target != "native"]
    if not served:
        return ""
    header = ["row", *served]
    lines = [
        [row, *(_number(results.cpu_us(row, target)) for target in served)] for row in results.rows
    ]
    return (
        "Server CPU per operation, us (user and system; an operation of seq_* is 1 MiB)\n\n"
        f"{_table(header, lines)}"
    )


def _goals(results: Results) -> str:
    if "shmr" not in results.targets:
        return ""
    lines = []
    for goal, ratio in results.goals():
        if ratio is None:
            verdict = "not measured"
        else:
            verdict = f"{ratio:.2f}  {'reached' if ratio >= goal.at_least else 'NOT reached'}"
        lines.append(f"  {goal!s:45} {verdict}")
    return "Goals of shmr\n" + "\n".join(lines)


def as_json(results: Results, about: dict[str, object]) -> dict[str, object]:
    """Everything, each round's figures too."""
    return {
        "about": about,
        "rows": {
            row: {
                target: {
                    "unit": ROWS[row].unit,
                    "median": results.median(row, target),
                    "spread": results.spread(row, target),
                    "ratio_to_native": results.ratio(row, target, "native"),
                    "ratio_to_bindfs": results.ratio(row, target, "bindfs"),
                    "cpu_us_per_operation": results.cpu_us(row, target),
                }
                for target in results.targets
            }
            for row in results.rows
        },
        "goals": [
            {
                "goal": str(goal),
                "at_least": goal.at_least,
                "ratio": ratio,
                "reached": None if ratio is None else ratio >= goal.at_least,
            }
            for goal, ratio in results.goals()
        ],
        "samples": [
            {
                "round": sample.round,
                "target": sample.target,
                "row": sample.row,
                "per_second": sample.per_second,
                "cpu_us_per_operation": sample.cpu_us,
                "failure": sample.failure,
            }
            for sample in results.samples
        ],
    }
