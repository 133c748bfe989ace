"""One prompt at a terminal: its continuation on one stream, how fast it came on another.

What `parity generate` does once its words are read. Chooses no exit code but by what it raises.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TextIO

import torch

from parity.engine.sched.request import SamplingParams, TokenScore
from parity.engine.serve.engine import Engine
from parity.errors import BackendError, UsageError, near_miss

__all__ = ["folder_of", "generate", "usable"]


def folder_of(model: str, models: Path) -> Path:
    """Return the folder of a model that is named by a path or, below `models`, by name."""
    if Path(model).is_dir():
        return Path(model)
    names = sorted(path.name for path in models.iterdir() if path.is_dir()) if models.is_dir() else []
    if model in names:
        return models / model
    raise UsageError(
        f"{model}: no such folder, and no model of that name{near_miss(model, names)}; "
        f"known: {', '.join(names) or 'none'}"
    )


def usable(device: str) -> str:
    """Return a device's name once something was computed on it.

    Raises UsageError for a name that torch does not know, BackendError for a device that is not here.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UsageError(f"device '{device}' is not known to torch; such as: cpu, cuda, cuda:1") from None
    try:
        value = torch.zeros(1, device=found).add(1).cpu().item()
    except Exception as error:
        why = str(error).strip().partition("\n")[0]
        raise BackendError(f"device '{device}' cannot be used here: {why}. See: parity devices") from error
    if value != 1:
        raise BackendError(f"device '{device}' cannot be used here: 0 + 1 gave {value}. See: parity doctor")
    return device


def generate(
    engine: Engine, prompt: str, params: SamplingParams, *, out: TextIO, log: TextIO, stream: bool
) -> None:
    """Write the continuation to `out`, its scores and speed to `log`; each piece at once where `stream`.

    An interrupt ends the text where it is, says so on `log` and is passed on.
    """
    if engine.text is None:
        raise UsageError(f"{engine.folder}: has no tokenizer.json, so it cannot continue a text")
    start = time.perf_counter()
    request = engine.add(prompt, params)
    times: list[float] = []
    said: list[str] = []
    try:
        while request.finish is None:
            for piece in engine.step().values():
                times += [time.perf_counter() - start] * len(piece.tokens)
                said.append(piece.text)
                if stream:
                    _write(out, piece.text)
    except KeyboardInterrupt:
        engine.abort(request)
        log.write(f"\ninterrupted after {len(times)} tokens\n")
        raise
    if not stream:
        _write(out, "".join(said))
    if out.isatty():
        _write(out, "\n")
    scored = zip(request.output, request.scores, strict=False)  # there are no scores unless asked for
    log.writelines(_line(engine, token, score) + "\n" for token, score in scored)
    log.write(_speed(times) + "\n")


def _write(out: TextIO, text: str) -> None:
    out.write(text)
    out.flush()


def _line(engine: Engine, token: int, score: TokenScore) -> str:
    others = "  ".join(f"{_shown(engine, other)} {logp:.4f}" for other, logp in score.top)
    return f"{_shown(engine, token)} {score.logprob:.4f}" + (f"  of  {others}" if others else "")


def _shown(engine: Engine, token: int) -> str:
    assert engine.text is not None
    return f"{token} {engine.text.decode([token])!r}"


def _speed(times: list[float]) -> str:
    if not times:
        return "0 tokens"
    first = f"{len(times)} tokens, the first after {times[0]:.3f} s"
    if len(times) == 1:
        return first
    return f"{first}, then {(len(times) - 1) / max(times[-1] - times[0], 1e-9):.1f} tokens/s"
