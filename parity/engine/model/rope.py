"""Rotary positions: the inverse frequencies of a config, with every scaling that it may ask for.

Frequencies are float64 and become the model's compute type where they are used. Sources: linear
scaling and yarn from arXiv 2309.00071, llama3 from the Llama 3.1 reference code, `dynamic` (NTK)
as in Hugging Face at the model's own length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from parity.errors import UsageError, near_miss

__all__ = ["Rope", "read_rope"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Rotation of the first `dim` dimensions of a head.

    `kind` is default, linear, dynamic, llama3 or yarn with its `options`; `magnitude` multiplies cos
    and sin, `score_scale` attention scores (yarn's two temperatures). Interleaved pairs are 2i with
    2i + 1, others i with i + dim / 2.
    """

    dim: int
    theta: float
    kind: str = "default"
    options: tuple[tuple[str, float], ...] = ()
    interleaved: bool = False
    magnitude: float = 1.0
    score_scale: float = 1.0

    def frequencies(self) -> torch.Tensor:
        """Return float64 radians a position, [dim / 2]."""
        exponent = torch.arange(0, self.dim, 2, dtype=torch.float64) / self.dim
        option = dict(self.options)
        match self.kind:
            case "linear":
                return self.theta**-exponent / option["factor"]
            case "dynamic":
                # At the length that it was trained for, the formula gives back theta itself.
                return self.theta**-exponent
            case "llama3":
                return _llama3(self.theta**-exponent, option)
            case "yarn":
                return _yarn(self.theta**-exponent, self.theta, self.dim, option)
            case _:
                return self.theta**-exponent


def _llama3(inverse: torch.Tensor, option: Mapping[str, float]) -> torch.Tensor:
    low, high, trained = option["low_freq_factor"], option["high_freq_factor"], option["original"]
    turns = trained * inverse / (2 * math.pi)  # rotations within the trained context
    blend = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return inverse * (blend + (1.0 - blend) / option["factor"])


def _yarn(inverse: torch.Tensor, theta: float, dim: int, option: Mapping[str, float]) -> torch.Tensor:
    def place(rotations: float) -> float:
        return dim * math.log(option["original"] / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = place(option["beta_fast"]), place(option["beta_slow"])
    if option["truncate"]:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    span = high - low if high != low else 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float64) - low) / span).clamp(0.0, 1.0)
    return inverse * (1.0 - ramp) + inverse / option["factor"] * ramp


_NEEDS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
_DEFAULT_THETA = {None: 10000.0, "sliding_attention": 10000.0, "full_attention": 1_000_000.0}


def read_rope(
    config: Mapping[str, Any],
    *,
    dim: int,
    layers: str | None = None,
    interleaved: bool = False,
    where: str,
) -> Rope:
    """Read `rope_parameters`, or `rope_theta` with `rope_scaling` as written before it.

    `layers` names the kind of layer where a model has a rope for each. Raises UsageError naming
    the field.
    """
    found = _parameters(config, layers)
    kind = str(found.get("rope_type") or found.get("type") or "default")
    if kind not in _NEEDS:
        raise UsageError(
            f"{where}: rope type '{kind}' is not known{near_miss(kind, _NEEDS)}; known: {', '.join(_NEEDS)}"
        )
    trained = found.get("original_max_position_embeddings") or config.get("max_position_embeddings")
    if kind == "dynamic" and trained != config.get("max_position_embeddings"):
        raise UsageError(f"{where}: rope type 'dynamic' beyond the trained length is not known")
    option: dict[str, float] = {"original": _number(trained, "original_max_position_embeddings", where)}
    for name in _NEEDS[kind]:
        option[name] = _number(found.get(name), name, where)
    partial = _number(found.get("partial_rotary_factor", config.get("partial_rotary_factor", 1.0)), "", where)
    magnitude = score_scale = 1.0
    if kind == "yarn":
        option |= {
            "beta_fast": float(found.get("beta_fast") or 32),
            "beta_slow": float(found.get("beta_slow") or 1),
            "truncate": float(found.get("truncate", True)),
        }
        magnitude, score_scale = _temperatures(found, option["factor"])
    return Rope(
        dim=int(dim * partial),
        theta=_number(found.get("rope_theta", _DEFAULT_THETA[layers]), "rope_theta", where),
        kind=kind,
        options=tuple(sorted(option.items())) if kind != "default" else (),
        interleaved=interleaved,
        magnitude=magnitude,
        score_scale=score_scale,
    )


def _parameters(config: Mapping[str, Any], layers: str | None) -> Mapping[str, Any]:
    found = config.get("rope_parameters")
    if isinstance(found, Mapping):
        inner = found.get(layers) if layers else None
        return inner if isinstance(inner, Mapping) else found
    theta = config.get("rope_theta")
    scaling = config.get("rope_scaling") or {}
    if layers == "sliding_attention":  # Gemma 3 before rope_parameters: local layers are never scaled
        theta, scaling = config.get("rope_local_base_freq"), {}
    return {**scaling, **({} if theta is None else {"rope_theta": theta})}


def _temperatures(found: Mapping[str, Any], factor: float) -> tuple[float, float]:
    """Return what yarn multiplies cos and sin by, and attention scores."""

    def mscale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    one, every = found.get("mscale"), found.get("mscale_all_dim")
    magnitude = found.get("attention_factor")
    if magnitude is None:
        magnitude = mscale(one) / mscale(every) if one and every else mscale(1.0)
    return float(magnitude), mscale(every) ** 2 if every else 1.0


def _number(value: object, name: str, where: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise UsageError(f"{where}: rope field '{name}' must be a number, got {value!r}")
    return float(value)
