"""What belongs where: rules, and later scripts, over plain values.

Nothing here opens, reads or moves anything. Whoever knows files and pools states the facts
(`FileFacts`, `PoolFacts`) and is told what should go where: `decide` for one, `choose` for all.
"""

from __future__ import annotations

from shmr.config.values import Rule
from shmr.policy.choose import Choice, choose
from shmr.policy.facts import FileFacts, PoolFacts
from shmr.policy.rules import Decision, decide, default_rules, needs_paths

__all__ = [
    "Choice",
    "Decision",
    "FileFacts",
    "PoolFacts",
    "Rule",
    "choose",
    "decide",
    "default_rules",
    "needs_paths",
]
