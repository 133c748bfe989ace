"""How often the first cause named is the planted one: `python tests/localize/diagnosed.py 200 220`.

The numbers are the first seed and the one after the last. Not a test: the suite tries one seed a kind.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import tests.localize.planted_more  # noqa: F401  # enters its faults into the table
from parity.backend.profile import Accumulator, Profile
from parity.case.dtype import DTYPES
from parity.localize.diagnose import diagnose
from parity.store.recording import StepRecord
from tests.localize.planted import PLANTED, Draw

PROFILE = Profile(accumulator=Accumulator(dtype=DTYPES["f32"]))


def tried(name, dtype, seed):
    """Return 'first', 'among', 'missed', or 'unseen' where no element fails."""
    kinds, make, _ = PLANTED[name]
    planted = make(Draw(seed, dtype))
    record = StepRecord(name="s", op=planted.op, attrs=planted.attrs, inputs=(), outputs=())
    causes = diagnose(record, planted.inputs, planted.got, PROFILE, earlier=planted.earlier)
    if not causes[0].failing:
        return "unseen"
    named = [cause.kind in {k.value for k in kinds} for cause in causes]
    return "first" if named[0] else "among" if any(named) else "missed"


def main(first, end):
    """Print a line a kind and type, and the sum."""
    total = Counter()
    for name, (_, _, dtypes) in PLANTED.items():
        for dtype in dtypes:
            found = Counter(tried(name, dtype, seed) for seed in range(first, end))
            total += Counter({(dtype, what): n for what, n in found.items()})
            line = ", ".join(f"{found[w]} {w}" for w in ("first", "among", "missed", "unseen") if found[w])
            sys.stdout.write(f"{name:40s} {dtype:4s} {line}\n")
            sys.stdout.flush()
    for dtype in ("f32", "bf16"):
        seen = sum(n for (d, w), n in total.items() if d == dtype and w != "unseen")
        sys.stdout.write(
            f"{dtype}: {total[dtype, 'first']} of {seen} first, {total[dtype, 'unseen']} unseen\n"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
