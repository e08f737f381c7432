"""What belongs where: rules, and later scripts, over plain values.

Nothing here opens, reads or moves anything. Whoever knows files and pools states the facts
(`FileFacts`, `PoolFacts`) and is told what should go where: `decide` for one, `choose` for some, a
`Chooser` for millions.
"""

from __future__ import annotations

from shmr.config.values import Rule
from shmr.policy.choose import Candidate, Choice, Chooser, Verdict, choose
from shmr.policy.facts import FileFacts, PoolFacts
from shmr.policy.glob import matches
from shmr.policy.rules import Decision, decide, default_rules, needs_paths, patterns

__all__ = [
    "Candidate",
    "Choice",
    "Chooser",
    "Decision",
    "FileFacts",
    "PoolFacts",
    "Rule",
    "Verdict",
    "choose",
    "decide",
    "default_rules",
    "matches",
    "needs_paths",
    "patterns",
]
