"""The parts of `tools/bench.py`: targets (what is mounted), rows (what is done), measure (how one
row is timed), report (what is printed).

Importing the package puts the checkout first on the path, so that the benchmark measures the
sources beside it and not an installed shmr.
"""

from __future__ import annotations

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
if str(CHECKOUT) not in sys.path:
    sys.path.insert(0, str(CHECKOUT))
