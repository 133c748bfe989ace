"""What recording costs beside a plain forward of the 125M configuration, and how fast it is judged.

For `tools/bench.py record`: a prefill of 128 tokens on one thread, in CPU seconds; the best of
several. Digests of the weights are taken once for a model and stand on a line of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import torch

from parity.backend.cpu_profile import cpu_profile
from parity.backend.spec import Setting
from parity.engine.bench import chosen
from parity.engine.ops.op import Wrap
from parity.engine.run.batch import Run, flatten
from parity.engine.serve.engine import Engine
from parity.judge.traced import judge_steps
from parity.run.engine_recorder import Recorder
from parity.store.recording import Environment, Recording

__all__ = ["measure"]

_TOKENS = 128
_GOALS = {"layer": 1.5, "op": 3.0}


def measure(show: Callable[[str, str, str], None], best: Callable[..., float]) -> None:
    """Print the figures of both depths, in f32 and bf16."""
    torch.set_num_threads(1)
    for dtype in ("f32", "bf16"):
        with chosen("", "125m", Path()) as folder:
            engine = Engine(folder, dtype=dtype, kv_tokens=2 * _TOKENS)
        _measure(engine, dtype, show, best)


def _measure(
    engine: Engine, dtype: str, show: Callable[[str, str, str], None], best: Callable[..., float]
) -> None:
    run = Run(tokens=range(5, 5 + _TOKENS), context=0, slots=range(_TOKENS))
    batch = flatten([run], device=engine.device)

    def forward(wrap: Wrap | None = None) -> Callable[[], object]:
        engine.rebind(wrap=wrap)
        network = engine._network  # noqa: SLF001 - a forward without requests is what is measured
        return torch.no_grad()(lambda: network(batch))

    forward()()  # warms caches and kernels
    plain = best(forward(), times=5)
    for depth, goal in _GOALS.items():
        recorder = Recorder(depth)
        once = forward(recorder.wrap)

        def recorded(once: Callable[[], object] = once, recorder: Recorder = recorder) -> None:
            recorder.clear()
            once()
            recorder.steps()

        first = best(recorded, times=1)
        took = best(recorded, times=5)
        show(f"{dtype}, recording by {depth}", f"{took / plain:.2f} times", f"at most {goal}")
        print(f"    {took:.3f} s beside {plain:.3f} s; digests of the weights, once: {first - took:.1f} s")
    _judging(recorder, dtype, show)
    engine.rebind()


def _judging(recorder: Recorder, dtype: str, show: Callable[[str, str, str], None]) -> None:
    steps, tensors = recorder.steps()
    weights = recorder.weights()
    recording = Recording(
        case="engine/bench:n=0",
        revision=f"sha256:{'0' * 64}",
        environment=Environment(
            backend="cpu", setting="strict", profile=cpu_profile(Setting.STRICT), provenance={}
        ),
        steps=tuple(steps),
        tensors=MappingProxyType(tensors),
    )
    named = {ref.digest: ref for step in steps for ref in (*step.inputs, *step.outputs) if ref is not None}
    read = sum(tensors[d].nbytes if d in tensors else weights[ref.name].nbytes for d, ref in named.items())
    start = time.process_time()
    found = [j.verdict.value for j in judge_steps(recording, weights=lambda ref: weights.get(ref.name))]
    took = time.process_time() - start
    show(f"{dtype}, judging what was recorded", f"{read / took / 1e6:.0f} MB/s", "at least 300 MB/s")
    print(f"    {read / 1e6:.0f} MB in {took:.1f} s, weights included; {', '.join(sorted(set(found)))}")
