"""The commands of the engine: continue a text, and time it. `cli` adds them to the command line.

Imports of the engine sit inside commands, for cost only.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Annotated

import typer

from parity.errors import BackendError, UsageError

__all__ = ["bench_engine", "generate"]

_Device = Annotated[str, typer.Option("--device", metavar="D", help="Where to compute, as torch names it.")]
_Dtype = Annotated[
    str | None, typer.Option("--dtype", metavar="T", help="f64, f32, bf16 or f16; default: the checkpoint's.")
]


def generate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A checkpoint folder, or a name: tiny-llama.")
    ],
    prompt: Annotated[str, typer.Option("--prompt", metavar="TEXT", help="What to go on from.")],
    device: _Device = "cpu",
    dtype: _Dtype = None,
    max_tokens: Annotated[int, typer.Option(metavar="N", help="Tokens at most.")] = 64,
    temperature: Annotated[float, typer.Option(metavar="T", help="0 takes the likeliest token.")] = 0.0,
    seed: Annotated[int, typer.Option(metavar="S", help="A stream depends on it and on position.")] = 0,
    stream: Annotated[bool, typer.Option("--stream", help="Print each piece as it comes.")] = False,
    logprobs: Annotated[
        int | None, typer.Option(metavar="K", help="Log-probabilities of tokens and K others, on stderr.")
    ] = None,
) -> None:
    """Continue a text: the continuation alone on stdout, its speed on stderr."""
    _needs_engine()
    from parity.case.catalog import builtin_cases
    from parity.engine import Engine, SamplingParams
    from parity.engine.serve import generate as door

    try:
        params = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed, logprobs=logprobs)
        folder = door.folder_of(model, builtin_cases() / "models")
        engine = Engine(folder, device=door.usable(device), dtype=dtype)
        door.generate(engine, prompt, params, out=sys.stdout, log=sys.stderr, stream=stream)
    except KeyboardInterrupt:
        raise typer.Exit(3) from None


def bench_engine(
    model: Annotated[str, typer.Argument(metavar="[MODEL]", help="A checkpoint folder, or a name.")] = "",
    random: Annotated[str, typer.Option(metavar="SIZE", help="Random weights instead of MODEL: 125m.")] = "",
    device: _Device = "cpu",
    dtype: _Dtype = None,
    against: Annotated[str, typer.Option(metavar="LIBRARY", help="Time it too: transformers.")] = "",
    rounds: Annotated[int, typer.Option(min=1, metavar="N", help="Turns that each one takes.")] = 5,
) -> None:
    """Time decode and prefill beside the memory or compute limit, measured in the same run."""
    _needs_engine()
    from parity.case.catalog import builtin_cases
    from parity.engine.bench import bench, chosen, lines
    from parity.engine.serve.generate import usable

    if bool(model) == bool(random) or against not in {"", "transformers"}:
        raise UsageError("bench-engine takes MODEL or --random SIZE, and --against transformers if anything")
    device = usable(device)
    with chosen(model, random, builtin_cases() / "models") as folder:
        others = []
        if against:
            from parity.engine.beside import transformers

            others = transformers(folder, device=device, dtype=dtype)
        for line in lines(bench(folder, device=device, dtype=dtype, others=others, rounds=rounds)):
            print(line)


def _needs_engine() -> None:
    for name in ("jinja2", "safetensors", "tokenizers"):
        if importlib.util.find_spec(name) is None:
            raise BackendError(
                f"the engine needs {name}, which is not installed. pip install 'chip-parity[engine]'"
            )
