"""Inputs of our own on which a step departs for the same likely cause: nobody's weights or prompt.

Values are drawn by the generator of the cases, scaled by a power of two to what the step consumed.
Integers that are places (slots, segments, positions) and masks stay: they say how long things are and
where they lie, never what they hold. Does not ask a backend; `reproduce` does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from parity.case.case import TensorSpec
from parity.case.dtype import Kind
from parity.case.inputs import DISTRIBUTIONS, values
from parity.case.tensor import HostTensor
from parity.errors import UsageError
from parity.judge.oracle import to_float64
from parity.localize.trial import Trial

__all__ = ["SEEDS", "drawn", "variants"]

SEEDS = 8
_DISTS = ("normal", "heavy", "positive", "uniform", "shifted", "small", "sweep", "special", "bits")
# Inputs that are places in memory or in a text, by op and argument.
_PLACES = {
    "latent_attention": (3, 4),
    "paged_attention": (3, 4),
    "rope": (1,),
}


def variants(trial: Trial) -> Iterator[tuple[str, Trial]]:
    """Yield in words what was drawn, and the step on it: every distribution, then the next seed."""
    dists = [name for name in _DISTS if name in DISTRIBUTIONS and not DISTRIBUTIONS[name].required]
    for seed in range(SEEDS):
        for dist in dists:
            made = _variant(trial, dist, seed)
            if made is not None:
                yield f"{dist} values, seed {seed}", made


def _variant(trial: Trial, dist: str, seed: int) -> Trial | None:
    changed: dict[int, HostTensor] = {}
    for position, tensor in enumerate(trial.consumed):
        if tensor is None or position in _PLACES.get(trial.record.op, ()) or tensor.dtype.kind is Kind.BOOL:
            continue
        try:
            key = f"repro/{trial.record.op}/{position}/{seed}"
            changed[position] = drawn(tensor, dist, key=key, rows=_rows(trial, position))
        except UsageError:  # this distribution does not make this type or shape
            return None
    return trial.on(changed)


def _rows(trial: Trial, position: int) -> int | None:
    """Return how many rows an input looks up in: even the range of token ids is part of a prompt."""
    table = trial.consumed[0]
    is_ids = trial.record.op in ("embedding", "scaled_embedding") and position == 1
    return table.shape[0] if is_ids and table is not None else None


def drawn(tensor: HostTensor, dist: str, *, key: str, rows: int | None = None) -> HostTensor:
    """Return a tensor of the same dtype and shape: floats of a distribution, integers of the same range.

    With `rows`, integers are below it instead.
    """
    if not tensor.dtype.is_float:
        array = tensor.array().astype(np.int64)
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        low, high = (low, high) if rows is None else (0, rows - 1)
        draw = np.random.Generator(np.random.Philox(int.from_bytes(key.encode()[-16:], "little")))
        return HostTensor.of(
            draw.integers(low, high + 1, tensor.shape).astype(tensor.dtype.storage), tensor.dtype
        )
    spec = TensorSpec(name="x", dtype=tensor.dtype, shape=tensor.shape, dist=dist)
    mine = HostTensor.of(values(spec, key=key), tensor.dtype)
    scale = _scale(tensor) - _scale(mine) if "exponent" in DISTRIBUTIONS[dist].options else 0
    if not scale:
        return mine
    return HostTensor.of(
        values(dataclasses.replace(spec, options={"exponent": scale}), key=key), tensor.dtype
    )


def _scale(tensor: HostTensor) -> int:
    """Return the power of two nearest to the rms of what is finite, 0 for zeros."""
    finite = to_float64(tensor).reshape(-1)
    finite = finite[finite.isfinite()]
    rms = math.sqrt(float(finite.square().mean())) if finite.numel() else 0.0
    return round(math.log2(rms)) if rms > 0 else 0
