"""How fast the engine is, beside what the machine could do at most: decode at three batches, one prefill.

The limit is measured in the same run, in turns with the engine, because a shared machine's memory
speed moves by the minute. So is another implementation, where one is given. Judges nothing.
"""

from __future__ import annotations

import contextlib
import functools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import save_file

from parity.engine.model.config import read
from parity.engine.model.names import weights
from parity.engine.ops.op import Cost, Op
from parity.engine.sched.request import SamplingParams
from parity.engine.sched.scheduler import Limits
from parity.engine.serve.engine import Engine
from parity.engine.serve.generate import folder_of
from parity.errors import UsageError, near_miss

__all__ = ["RANDOM", "Machine", "Other", "Row", "Task", "bench", "chosen", "lines", "write_random"]

_LLAMA = {"model_type": "llama", "rope_theta": 10000.0, "rms_norm_eps": 1e-5, "dtype": "bfloat16"}
# Networks to be timed without a file: sizes alone matter then.
RANDOM: Mapping[str, Mapping[str, Any]] = {
    "125m": {
        **_LLAMA,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "intermediate_size": 2048,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
    }
}
_BATCHES = (1, 4, 16)
_PREFILL = 512
_CONTEXT = 128  # cached tokens where decoding begins
_STEPS = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What is timed: `steps` decode steps of `batch` requests, or the prefill of one prompt (`steps` 0)."""

    name: str
    batch: int
    prompt: int
    steps: int

    @property
    def tokens(self) -> int:
        """Tokens of one timed step."""
        return self.batch if self.steps else self.prompt

    def prompts(self, vocab: int) -> list[list[int]]:
        """Return prompts that share no beginning."""
        draw = torch.Generator().manual_seed(self.batch)
        return torch.randint(0, vocab, (self.batch, self.prompt), generator=draw).tolist()


class Other(Protocol):
    """Another implementation, over the same weights: the seconds of each step of a task."""

    @property
    def name(self) -> str:
        """What its column is called."""
        ...

    def seconds(self, task: Task, prompts: Sequence[Sequence[int]]) -> list[float]:
        """Run the task once."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What was measured: bytes read a second, and floating-point operations a second of a large product."""

    read: float
    flops: float

    def limit_s(self, work: Cost) -> float:
        """Return the seconds that this work takes at least."""
        return max(work.bytes / self.read, work.flops / self.flops)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One task's tokens a second: ours, the machine's limit, and others by name."""

    task: Task
    ours: float
    limit: float
    bound: str
    others: Mapping[str, float] = field(default_factory=dict)


def write_random(name: str, folder: Path) -> None:
    """Write a checkpoint of random weights. Raises UsageError for a size that is not in `RANDOM`."""
    config = RANDOM.get(name)
    if config is None:
        raise UsageError(
            f"no random model is called '{name}'{near_miss(name, RANDOM)}; known: {', '.join(RANDOM)}"
        )
    draw = torch.Generator().manual_seed(0)
    arch, tensors = read(config), {}
    for weight in weights(arch):
        for part in (part for inner in weight.parts for part in inner):
            scale = part.shape[-1] ** -0.5
            value = (
                torch.randn(part.shape, generator=draw) * scale
                if weight.is_matrix
                else torch.ones(part.shape)
            )
            place = part.name if part.name.startswith("lm_head.") else f"model.{part.name}"
            tensors[place] = value.bfloat16()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))


@contextlib.contextmanager
def chosen(model: str, random: str, models: Path) -> Iterator[Path]:
    """Yield the folder of a model, or a folder of random weights that goes away again."""
    if not random:
        yield folder_of(model, models)
        return
    with tempfile.TemporaryDirectory(prefix="parity-") as name:
        write_random(random, Path(name))
        yield Path(name)


def bench(
    path: Path, *, device: str, dtype: str | None, others: Sequence[Other] = (), rounds: int = 5
) -> list[Row]:
    """Return one row a task; all that is compared takes turns, and medians are reported."""
    engine = Engine(path, device=device, dtype=dtype, limits=Limits(prefix_cache=False))
    room = min(engine.arch.max_positions, _PREFILL)
    context = min(_CONTEXT, engine.arch.max_positions - _STEPS)
    tasks = [Task(name=f"decode, batch {n}", batch=n, prompt=context, steps=_STEPS) for n in _BATCHES]
    tasks.append(Task(name=f"prefill {room}", batch=1, prompt=room, steps=0))
    return [_row(engine, task, others, rounds) for task in tasks]


def _row(engine: Engine, task: Task, others: Sequence[Other], rounds: int) -> Row:
    prompts = task.prompts(engine.arch.vocab)
    work = _work(engine, task, prompts)
    contenders: dict[str, Callable[[], list[float]]] = {
        "": lambda: _ours(engine, task, prompts),
        **{other.name: functools.partial(other.seconds, task, prompts) for other in others},
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    speeds: list[Machine] = []
    for number in range(rounds + 1):
        for name, run in contenders.items():
            found = run()
            seconds[name] += found if number else []  # the first round warms caches and kernels
        speeds.append(_measure(engine.device, engine.dtype))
    machine = Machine(read=max(s.read for s in speeds), flops=max(s.flops for s in speeds))
    rates = {name: task.tokens / statistics.median(found) for name, found in seconds.items()}
    return Row(
        task=task,
        ours=rates.pop(""),
        limit=task.tokens / machine.limit_s(work),
        bound=_bound(machine, work),
        others=rates,
    )


def _bound(machine: Machine, work: Cost) -> str:
    if work.bytes / machine.read > work.flops / machine.flops:
        return f"{machine.read / 1e9:.1f} GB/s"
    return f"{machine.flops / 1e9:.0f} GFLOP/s"


def _ours(engine: Engine, task: Task, prompts: Sequence[Sequence[int]]) -> list[float]:
    params = SamplingParams(max_tokens=task.steps + 1, ignore_eos=True)
    requests = [engine.add(prompt, params) for prompt in prompts]
    while task.steps and any(not request.output for request in requests):
        engine.step()
    # Those that came in first are some steps ahead, so all stop when the first has ended.
    seconds = []
    while all(request.finish is None for request in requests):
        start = time.perf_counter()
        engine.step()
        _wait(engine.device)
        seconds.append(time.perf_counter() - start)
    for request in requests:
        if request.finish is None:
            engine.abort(request)
    return seconds


def _work(engine: Engine, task: Task, prompts: Sequence[Sequence[int]]) -> Cost:
    """Return the cost of the task's last step, counted at every site."""
    total = Cost(0, 0)

    def count(_: str, op: Op, function: Callable[..., Any], __: Mapping[str, Any]) -> Callable[..., Any]:
        bound = getattr(function, "keywords", {})

        def counted(*args: Any, **named: Any) -> Any:
            nonlocal total
            cost = op.cost(*args, **bound, **named)
            total = Cost(total.flops + cost.flops, total.bytes + cost.bytes)
            return function(*args, **named)

        return counted

    params = SamplingParams(max_tokens=2 if task.steps else 1, ignore_eos=True)
    requests = [engine.add(prompt, params) for prompt in prompts]
    engine.rebind(wrap=count)
    while any(request.finish is None for request in requests):
        total = Cost(0, 0)
        engine.step()
    engine.rebind()
    return total


def _measure(device: torch.device, dtype: torch.dtype) -> Machine:
    """Measure now: the best of several ways to read 256 MiB, and a product of 1,024 cubed."""
    held = torch.ones(1 << 26, device=device)
    read = [held.nbytes / _seconds(lambda: torch.sum(held), device)]
    read.append(held.nbytes / _seconds(lambda: torch.dot(held, held), device))
    size = 1024
    square = torch.ones(size, size, dtype=dtype, device=device)
    return Machine(read=max(read), flops=2 * size**3 / _seconds(lambda: square @ square, device))


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        run()
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return best


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def lines(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the rows as a table of tokens a second, the others' below the engine's."""
    yield f"{'tokens/s':<18}{'engine':>10}{'limit':>10}{'of it':>7}   bound by"
    for row in rows:
        share = f"{row.ours / row.limit:>7.0%}"
        yield f"{row.task.name:<18}{row.ours:>10,.1f}{row.limit:>10,.1f}{share}   {row.bound}"
        for name, rate in row.others.items():
            yield f"  {name:<16}{rate:>10,.1f}   the engine has {row.ours / rate:.2f} times that"
