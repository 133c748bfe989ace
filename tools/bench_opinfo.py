"""Torch's own samples of its ops on the CPU in float32: judged, beside a bare loop over the same samples.

The bare loop does what a hand-written comparison does: forward, the same call in float64, the largest
difference; it judges nothing. Both run here, one after the other, so that a busy machine slows both.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["measure"]

ROOT = Path(__file__).resolve().parent.parent
SELECTOR = "opinfo:dtype=f32,inputs=samples"
_Show = Callable[[str, str, str], None]


def measure(show: _Show) -> None:
    """Print both, the judged share, and why the rest was not judged."""
    wall, cpu, made, drawing = _bare()
    drawn = f"{made:,} samples, drawn in {drawing:.1f} s"
    print(f"bare loop, one core: {wall:.1f} s ({cpu:.1f} s of CPU) over {drawn}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu, report = _judged(Path(folder))
    steps = [step for case in report["cases"] for step in case["steps"]]
    verdicts = Counter(step["verdict"] for step in steps)
    judged = len(steps) - verdicts["unjudged"]
    show(f"judged sweep -j 2, {len(steps):,} samples", f"{wall:.1f} s", "at most 90 s")
    print(f"    {cpu:.1f} s of CPU in all processes; {dict(verdicts)}; {len(report['cases'])} cases")
    show("judged share", f"{100 * judged / len(steps):.1f} %", "at least 80 %")
    reasons = Counter(_reason(step) for step in steps if step["verdict"] == "unjudged")
    for reason, count in reasons.most_common(25):
        print(f"    {count:>6,}  {reason[:100]}")
    others = sum(count for _, count in reasons.most_common()[25:])
    print(f"    {others:>6,}  of {max(len(reasons) - 25, 0)} more reasons")
    for case in report["cases"]:
        worse = [s for s in case["steps"] if s["verdict"] not in {"within", "unjudged"}]
        if worse:
            print(f"    {case['verdict']} {case['id']}: {len(worse)} steps, such as {worse[0]['note'][:70]}")


def _reason(step: dict[str, Any]) -> str:
    note = step["note"] or next((o["note"] for o in step["outputs"] if o["note"]), "")
    return str(note).partition(";")[0]


def _bare() -> tuple[float, float, int, float]:
    """Return wall and CPU seconds of the loop, how many samples it had, and the seconds of drawing them."""
    import torch
    from torch.utils._pytree import tree_leaves, tree_map

    from parity.case.opinfo_db import database, listing, samples

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = [(name, row) for name, rows in listing().items() for row in rows]
    full = [".".join(filter(None, (name, row.get("variant")))) for name, row in rows if _is_chosen(row)]
    began = time.perf_counter()
    drawn = [(database()[name].op, samples(name, dtype="f32", inputs="samples")) for name in full]
    drawing = time.perf_counter() - began

    def wide(x: object) -> object:
        if isinstance(x, torch.Tensor) and x.is_floating_point():
            return x.double()
        return torch.float64 if x is torch.float32 else x

    start, cpu, largest = time.perf_counter(), time.process_time(), 0.0
    for function, cases in drawn:
        for sample in cases:
            try:
                got = function(*sample.args, **sample.kwargs)
                want = function(*tree_map(wide, sample.args), **tree_map(wide, dict(sample.kwargs)))
                for a, b in zip(tree_leaves(got), tree_leaves(want), strict=True):
                    if isinstance(a, torch.Tensor) and a.numel() and a.is_floating_point():
                        largest = max(largest, float((a.double() - b).abs().max()))
            except Exception:  # noqa: BLE001, S110 - a bare loop has no answer for what it cannot compare
                pass
    count = sum(len(cases) for _, cases in drawn)
    return time.perf_counter() - start, time.process_time() - cpu, count, drawing


def _is_chosen(row: dict[str, str]) -> bool:
    return (row["dtype"], row["inputs"]) == ("f32", "samples")


def _judged(folder: Path) -> tuple[float, float, dict[str, Any]]:
    """Return wall seconds, CPU seconds of all processes, and the report of `parity check`."""
    report = folder / "opinfo.json"
    command = [sys.executable, "-m", "parity", "check", SELECTOR, "--ref", "oracle", "--target", "cpu"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(
        [*command, "-j", "2", "--json", str(report)], cwd=folder, env=environ, capture_output=True, text=True
    )
    wall, after = time.perf_counter() - began, os.times()
    if done.returncode not in {0, 1, 3}:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, cpu, json.loads(report.read_text())
