"""`parity check --model`: from the options to a case file. `cli` adds it to the cases of a check.

Imports of stages sit inside functions, for cost only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from parity.errors import BackendError, UsageError

__all__ = ["Dtype", "Model", "Named", "Ops", "Prompt", "Stream", "Tokens", "named"]

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="M",
        help="Check a model: a checkpoint folder, a model that ships with parity, or module:callable.",
    ),
]
Dtype = Annotated[
    str | None, typer.Option("--dtype", metavar="T", help="With --model: f32, bf16 or f16; default: its own.")
]
Prompt = Annotated[str | None, typer.Option("--prompt", metavar="TEXT", help="With --model: what it reads.")]
Tokens = Annotated[
    Path | None, typer.Option("--tokens", metavar="FILE", help="With --model: token numbers that it reads.")
]
Ops = Annotated[
    bool, typer.Option("--ops", help="With --model: each of its operations alone; reads no weights.")
]
Stream = Annotated[
    bool, typer.Option("--stream", help="With --model: one layer at a time, for a model that does not fit.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """The case file of a model, and what selects its cases."""

    file: Path
    selectors: list[str]


def named(
    model: str | None,
    *,
    dtype: str | None,
    prompt: str | None,
    tokens: Path | None,
    ops: bool,
    stream: bool,
    others: bool,
) -> Named | None:
    """Return the cases of the model that was asked for, None where none was.

    `others` says that cases were asked for too. Raises UsageError for options that need `--model`, and
    for a model or prompt that cannot be run.
    """
    given = {"--dtype": dtype, "--prompt": prompt, "--tokens": tokens, "--ops": ops, "--stream": stream}
    if model is None:
        extra = next((name for name, value in given.items() if value), None)
        if extra:
            raise UsageError(f"{extra} says how a model is checked: name it with --model")
        return None
    if others:
        raise UsageError("--model checks that model alone: leave out selectors, --suite and --last-failed")
    try:
        from parity.case.catalog import builtin_cases
        from parity.engine.serve.generate import folder_of
        from parity.run.model_case import Asked, write_model_cases
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("parity"):
            raise
        raise BackendError(
            f"--model needs {error.name}, which is not installed. pip install 'chip-parity[engine]'"
        ) from None
    if ":" not in model or Path(model).exists():
        model = str(folder_of(model, builtin_cases() / "models"))
    asked = Asked(model=model, dtype=dtype, prompt=prompt, tokens=tokens, ops=ops, stream=stream)
    return Named(file=write_model_cases(asked), selectors=["model-ops" if ops else "model"])
