"""What loading costs: `import parity`, `parity --help` and `parity list` load neither torch nor pyarrow.

That is the check. Times are printed beside their aims, and fail only when far over: how fast a
machine is on a busy day is no property of the code.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from checks.result import CheckFailed, Result, run

__all__ = ["check_cost"]

RUNS = 5
FAR_OVER = 5
# Prints what was loaded after the command's own output, whatever way it ends.
PROBE = """
import sys
try:
    {statement}
finally:
    print("loaded:", *[name for name in ("torch", "pyarrow") if name in sys.modules])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One thing that must be quick; `aim_s` is None where only the modules are looked at."""

    name: str
    statement: str
    aim_s: float | None = None


LOADS = (
    Load(name="import parity", statement="import parity", aim_s=0.1),
    Load(
        name="parity --help",
        statement="from parity.cli import main; sys.argv = ['parity', '--help']; main()",
        aim_s=0.3,
    ),
    Load(name="parity list", statement="from parity.cli import main; sys.argv = ['parity', 'list']; main()"),
)


def check_cost(root: Path) -> Result:
    """Run each load in a fresh interpreter; the time is the median of several, start-up included."""
    notes, problems = [], []
    for load in LOADS:
        try:
            seconds, loaded = _measure(load, root=root)
        except CheckFailed as failed:
            problems.append(f"{load.name}: {failed}")
            continue
        if loaded:
            problems.append(f"{load.name} loads {' and '.join(loaded)}")
        if load.aim_s is not None:
            notes.append(f"{load.name} {seconds:.2f} s (aim {load.aim_s} s)")
            if seconds > FAR_OVER * load.aim_s:
                problems.append(f"{load.name} took {seconds:.2f} s, over {FAR_OVER} times its aim")
    return Result(note=", ".join(notes), problems=tuple(problems))


def _measure(load: Load, *, root: Path) -> tuple[float, list[str]]:
    command = [sys.executable, "-c", PROBE.format(statement=load.statement)]
    env = {**os.environ, "PYTHONPATH": str(root)}
    output = run(command, cwd=root, env=env)  # writes the byte code that the timed runs then find
    times = []
    for _ in range(RUNS if load.aim_s is not None else 0):
        start = time.perf_counter()
        run(command, cwd=root, env=env)
        times.append(time.perf_counter() - start)
    loaded = output.rpartition("loaded:")[2].split()
    return statistics.median(times or [0.0]), loaded
