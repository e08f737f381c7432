"""`tools/simulate_gc.py`: write amplification with shmr's own packing and choice of victims."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from gc_kit.policies import POLICIES  # noqa: E402
from gc_kit.pool import simulate  # noqa: E402
from gc_kit.setting import Setting  # noqa: E402

SMALL = {"segments": 48, "segment_blocks": 32, "turnovers": 3.0}


def amplification(policy: str = "shmr", **options: object) -> float:
    return simulate(Setting(**SMALL, **options), POLICIES[policy]).amplification  # type: ignore[arg-type]


def test_what_dies_without_order_costs_what_theory_says() -> None:
    bound = Setting(fullness=0.7).bound()
    assert bound is not None
    assert amplification(fullness=0.7) == pytest.approx(bound, rel=0.1)


def test_from_80_percent_down_it_stays_below_the_goal() -> None:
    assert amplification(shrink=True) < 1.8


def test_large_files_and_a_large_workspace_cost_less() -> None:
    plain = amplification()
    assert amplification(file=0.5) < 1.8 < plain
    assert amplification(workspace=0.25) < plain


def test_cleaning_before_zones_are_needed_costs_more() -> None:
    assert amplification(fullness=0.6, clean_at=0.3) > amplification(fullness=0.6, clean_at=0.5)


@pytest.mark.parametrize("policy", POLICIES)
def test_one_seed_is_one_result(policy: str) -> None:
    setting = Setting(**SMALL, file=0.1)  # type: ignore[arg-type]
    assert simulate(setting, POLICIES[policy]) == simulate(setting, POLICIES[policy])
