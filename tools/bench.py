#!/usr/bin/env python3
"""Measure what is promised of speed and of verdicts, each figure beside its goal.

    tools/bench.py faults [--seeds 1000..1002] [--every N] [--production] [-j N] [--json F]
    tools/bench.py localize [--seeds 1000..1000] [-j N] [--json F]
    tools/bench.py compare | golden | cold | ops | record | layers | opinfo

Seeds from 1000 on are held out: no constant of the judge was chosen on them, and none may be. A
machine that does other work gives other times; nothing here fails a build.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

# Each process keeps one core: torch's threads spinning on cores that others use cost twenty times.
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

GIB = 1 << 30


def main() -> None:
    """Read the command and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    fault = commands.add_parser("faults", help="false alarms and misses beside what the field uses")
    fault.add_argument("--seeds", default="1000..1000", metavar="N..M", help="both ends included")
    fault.add_argument("--every", type=int, default=1, metavar="N", help="every Nth case")
    fault.add_argument("--production", action="store_true", help="cases of production size instead")
    fault.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    fault.add_argument("--json", type=Path, metavar="F", help="write every count")
    engine = commands.add_parser("localize", help="faults planted in the engine: found, where, and named")
    engine.add_argument("--seeds", default="1000..1000", metavar="N..M", help="both ends included")
    engine.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    engine.add_argument("--json", type=Path, metavar="F", help="write every count")
    for name, what in (
        ("compare", "speed and memory of the comparison"),
        ("golden", "writing and reading a recording"),
        ("cold", "parity from a cold start"),
        ("ops", "the suite ops on cpu"),
        ("record", "recording the engine, and judging what was recorded"),
        ("layers", "one layer of the real dimensions of large models"),
        ("opinfo", "torch's own samples of its ops, judged, beside a bare loop"),
    ):
        commands.add_parser(name, help=what)
    given = parser.parse_args()
    {
        "faults": faults,
        "localize": localize,
        "compare": compare,
        "golden": golden,
        "cold": cold,
        "ops": ops,
        "record": record,
        "layers": layers,
        "opinfo": opinfo,
    }[given.command](given)


def show(what: str, figure: str, goal: str) -> None:
    """Print one figure beside its goal."""
    print(f"{what:<44} {figure:>18}   goal {goal}", flush=True)


def best(run: Callable[[], object], *, times: int = 7) -> float:
    """Return the shortest of several runs, in seconds of this process's own time."""
    seconds = []
    for _ in range(times):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return min(seconds)


def faults(given: argparse.Namespace) -> None:
    """Plant faults in every case on every seed and print the table."""
    from parity.report.selftest import table
    from parity.selftest.card import MISSED, run
    from parity.selftest.table import Tally

    first, _, last = given.seeds.partition("..")
    tally, start, cases = Tally(), time.monotonic(), 0
    for seed in range(int(first), int(last or first) + 1):
        card = run(seed=seed, jobs=given.jobs, every=given.every, production=given.production)
        tally.add(card.tally)
        cases += card.judged
        print(f"seed {seed}: {card.judged:,} cases, {card.seconds:.0f} s", file=sys.stderr)
    print(f"seeds {given.seeds}, {cases:,} cases, {time.monotonic() - start:.0f} s")
    print(f"goal: no false alarm, at most {100 * MISSED:g} % of real faults missed")
    print("\n".join(table(tally)))
    if given.json is not None:
        given.json.write_text(json.dumps(tally.to_json(), indent=1) + "\n", encoding="utf-8")


def localize(given: argparse.Namespace) -> None:
    """Plant every kind of fault in every net, f32 and bf16, on every seed, and print the table."""
    from faults.engine_nets import NETS
    from faults.engine_table import Hunted

    first, _, last = given.seeds.partition("..")
    seeds = range(int(first), int(last or first) + 1)
    work = [(net, dtype, seed) for seed in seeds for net in NETS for dtype in ("f32", "bf16")]
    tally, start = Hunted(), time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=given.jobs, mp_context=context) as pool:
        for done, found in enumerate(pool.map(_hunted, work), 1):
            tally.add(found)
            print(f"\r{done} of {len(work)}  {time.monotonic() - start:.0f} s", end="", file=sys.stderr)
    print(file=sys.stderr)
    print(f"seeds {given.seeds}, {time.monotonic() - start:.0f} s")
    print("\n".join(tally.lines()))
    if given.json is not None:
        given.json.write_text(json.dumps(tally.to_json(), indent=1) + "\n", encoding="utf-8")


def _hunted(work: tuple[str, str, int]) -> object:
    """Hunt every kind of fault in one network, in a child."""
    import torch
    from faults.engine_table import hunted

    torch.set_num_threads(1)
    net, dtype, seed = work
    with tempfile.TemporaryDirectory() as folder:
        return hunted(net, dtype, seed, Path(folder))


def layers(_: argparse.Namespace) -> None:
    """Print one layer of real dimensions of each large model: time, memory and verdicts."""
    from run.at_scale import LAYERS, layers_at_scale

    for name in LAYERS:
        (found,) = layers_at_scale([name])
        rate = found.judged_bytes / found.judge_s / 1e6
        show(f"{name}, {found.tokens} tokens: judging", f"{rate:.0f} MB/s", "at least 300 MB/s")
        print(
            f"    {found.weight_bytes / 1e9:.2f} GB, recorded in {found.record_s:.1f} s, judged in "
            f"{found.judge_s:.1f} s; memory {found.peak_bytes / 1e9:.2f} GB; {found.compared:,} of "
            f"{found.elements:,} elements compared one by one; {found.verdicts}"
        )


def opinfo(_: argparse.Namespace) -> None:
    """Print a judged sweep of torch's own samples on cpu beside a bare loop over them."""
    from bench_opinfo import measure

    measure(show)


def record(_: argparse.Namespace) -> None:
    """Print what recording costs beside a forward that nobody looks at."""
    from bench_record import measure

    measure(show, best)


def compare(_: argparse.Namespace) -> None:
    """Print comparison beside a plain read, then memory in fresh processes."""
    import torch

    from parity.judge.measure import difference, measure

    torch.set_num_threads(1)
    elements = 1 << 24
    got, noise = torch.randn(elements), torch.randn(elements)
    value = got + 1e-7 * noise
    bound = got.abs() * 1e-6 + 1e-7
    sigma = bound / 3
    streams = {"pair, bound and sigma": (got, value, bound, sigma), "pair alone": (got, value)}
    for name, tensors in streams.items():
        run = measure if len(tensors) > 2 else difference
        read = best(lambda t=tensors: [x.sum() for x in t])
        took = best(lambda t=tensors, r=run: r(*t))
        size = sum(t.nbytes for t in tensors) / 1e9
        what = f"{run.__name__}, f32 {name}"
        show(what, f"{100 * read / took:.0f} % of a read", "at least 10 %")
        print(f"    {size / took:.1f} GB/s; the same tensors summed: {size / read:.1f} GB/s")
    for name in ("difference", "measure"):
        added = int(_python(f"import bench; bench.memory({name!r})"))
        show(f"{name} of two 1 GiB tensors adds", f"{added / 2**20:.0f} MiB", "at most 200 MiB")


def memory(name: str) -> None:
    """Print the resident bytes that a comparison of two 1 GiB tensors adds, at its peak."""
    import torch

    from parity.judge import measure as judge

    torch.set_num_threads(1)
    a = torch.ones(GIB // 4)
    b = a.clone()
    small = torch.ones(1)
    judge.difference(small, small)
    before = _resident("VmRSS")
    # The peak begins anew: making the tensors must not count.
    Path("/proc/self/clear_refs").write_text("5")
    if name == "difference":
        judge.difference(a, b)
    else:
        # An elementwise budget is c |y|, so its streams need no memory of their own.
        judge.measure(a, b, small.expand_as(a), small.expand_as(a))
    print(_resident("VmHWM") - before)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field))) * 1024


def golden(_: argparse.Namespace) -> None:
    """Print writing and reading a recording of 256 MiB beside a raw file of the same bytes."""
    import numpy as np

    from parity.case.dtype import DTYPES
    from parity.case.tensor import HostTensor
    from parity.store import arrow

    values = np.arange(1 << 26, dtype=np.float32)
    tensor = HostTensor.of(values, DTYPES["f32"])
    recording, key = _recording(tensor), tensor.digest()
    raw_bytes = values.view(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        raw, path = Path(folder) / "raw", Path(folder) / "golden.arrow"
        raw_seconds = [best(lambda: values.tofile(raw)), best(lambda: np.fromfile(raw, np.uint8).sum())]
        digest = best(lambda: hashlib.sha256(raw_bytes), times=3)
        seconds = [best(lambda: arrow.write(recording, path), times=3)]
        seconds += [best(lambda: arrow.read(path).tensors[key].array().view(np.uint8).sum(), times=3)]
    size = values.nbytes / 1e9
    print(f"256 MiB; one sha256 of it {size / digest:.2f} GB/s, {digest:.2f} s")
    for name, plain, ours in zip(("write", "read"), raw_seconds, seconds, strict=True):
        rates = f"raw file {size / plain:5.2f} GB/s   golden {size / ours:5.2f} GB/s"
        print(f"{name:<6} {rates}   {ours / plain:.1f} times as long, {ours / digest:.1f} digests")


def _recording(tensor: object) -> object:
    from parity.backend.profile import Accumulator, Profile
    from parity.case.dtype import DTYPES
    from parity.case.tensor import HostTensor
    from parity.store.recording import Environment, Recording, StepRecord, TensorRef

    assert isinstance(tensor, HostTensor)
    ref = TensorRef(
        name="y",
        role="activation",
        dtype=tensor.dtype,
        shape=tensor.shape,
        stride=tensor.stride,
        offset=0,
        digest=tensor.digest(),
    )
    attrs = {"rows": 1, "columns": 1, "offset": 0}
    step = StepRecord(name="s", op="triu_indices", attrs=attrs, inputs=(), outputs=(ref,))
    profile = Profile(accumulator=Accumulator(dtype=DTYPES["f32"]))
    environment = Environment(backend="cpu", setting="strict", profile=profile, provenance={})
    revision = f"sha256:{'0' * 64}"
    return Recording(
        case="bench/golden",
        revision=revision,
        environment=environment,
        steps=(step,),
        tensors={ref.digest: tensor},
    )


def cold(_: argparse.Namespace) -> None:
    """Print how long a fresh process takes to be of use."""
    nothing = statistics.median(_seconds("pass") for _ in range(5))
    imported = statistics.median(_seconds("import parity") for _ in range(7))
    helped = statistics.median(_seconds("from parity.cli import main; main()", "--help") for _ in range(7))
    print(f"python itself {nothing:.3f} s")
    show("import parity", f"{imported - nothing:.3f} s", "0.1 s")
    show("parity --help", f"{helped:.3f} s", "at most 0.3 s")
    seconds = min(_seconds("from parity.cli import main; main()", "check") for _ in range(2))
    show("parity check, suite smoke", f"{seconds:.1f} s", "at most 15 s on two cores")


def ops(_: argparse.Namespace) -> None:
    """Print the whole suite ops on cpu, and what the framework costs: judged beside it, and alone."""
    arguments = ("check", "--suite", "ops", "--ref", "oracle", "--target", "cpu")
    beside: dict[str, float] = {}
    for jobs in ("1", "2"):
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "ops.json"
            code = "from parity.cli import main; main()"
            seconds = _seconds(code, *arguments, "-j", jobs, "--json", str(report))
            found = json.loads(report.read_text())
        count = len(found["cases"])
        beside[jobs] = 1e3 * found["framework_seconds"] / count
    inside = sum(step["seconds"] or 0.0 for case in found["cases"] for step in case["steps"])
    show(f"ops on cpu -j 2, {count:,} cases", f"{seconds:.1f} s", "at most 120 s")
    print(f"    of which in the ops themselves {inside:.1f} s; counts {found['counts']}")
    memory_folder = "/dev/shm"  # noqa: S108  # a folder without a disk, where there is one
    for folder in (memory_folder, tempfile.gettempdir()):
        if not os.access(folder, os.W_OK):
            continue
        code = f"import bench; bench.recording_ms({folder!r})"
        alone = sorted(float(_python(code)) for _ in range(5))
        middle = f"{statistics.median(alone):.2f} ms"
        show(f"framework a case, recordings in {folder}", middle, "at most 2 ms")
        print(f"    5 runs from {alone[0]:.2f} to {alone[-1]:.2f} ms; a file there {_file_ms(folder):.2f} ms")
    print(f"    beside the judge {beside['1']:.2f} ms; with -j 2, three processes, {beside['2']:.2f} ms")


def _file_ms(folder: str) -> float:
    """Return the milliseconds that making a file and giving it its name takes there."""
    from parity.store.atomic import replacing

    with tempfile.TemporaryDirectory(dir=folder) as name:
        start = time.perf_counter()
        for number in range(500):
            with replacing(Path(name) / str(number)) as file:
                file.write(b"x")
        return 2.0 * (time.perf_counter() - start)


def recording_ms(folder: str) -> None:
    """Print the milliseconds a case of one child beside its ops, with no judge running."""
    from parity.backend.spec import BackendSpec, Setting
    from parity.case.catalog import Catalog
    from parity.run.pool import run_cases
    from parity.store import arrow

    cases = Catalog.load([ROOT / "cases"]).select([], suite="ops")
    with tempfile.TemporaryDirectory(dir=folder) as name:
        done = list(
            run_cases(
                cases,
                BackendSpec.parse("cpu"),
                Setting.STRICT,
                folder=Path(name),
                case_folders=[ROOT / "cases"],
            )
        )
        inside = sum(step.seconds or 0.0 for each in done for step in arrow.read(each.path).steps)
    print(1e3 * (sum(each.seconds for each in done) - inside) / len(done))


def _seconds(code: str, *arguments: str) -> float:
    start = time.perf_counter()
    _python(code, *arguments)
    return time.perf_counter() - start


def _python(code: str, *arguments: str) -> str:
    """Run code in a fresh process in an empty folder and return what it printed."""
    path = os.pathsep.join((str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")))
    environ = {**os.environ, "PYTHONPATH": path.rstrip(os.pathsep)}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=folder, env=environ, capture_output=True, text=True
        )
    if done.returncode not in {0, 1, 3}:
        sys.exit(f"{code} {' '.join(arguments)}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
