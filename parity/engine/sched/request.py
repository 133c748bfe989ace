"""One request: what was asked, how far it is, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType

import torch

from parity.engine.kv.blocks import Held
from parity.errors import UsageError

__all__ = ["Finish", "Request", "SamplingParams", "TokenScore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How next tokens are chosen. Applied in this order: bias, penalties, temperature, top-k, top-p, min-p.

    `temperature` 0 is greedy: the largest score, the lowest id of equal ones. A stream of tokens
    depends on `seed` and position alone. `logprobs` asks for so many alternatives a token (0: the
    chosen one alone); they are log-softmax of the scores as the network gave them, before all of
    the above. `stop` texts end the output and are not part of it.
    """

    max_tokens: int = 16
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, ok, expected in (
            ("max_tokens", self.max_tokens >= 0, "0 or more"),
            ("temperature", 0 <= self.temperature < math.inf, "0 or more, and finite"),
            ("top_k", self.top_k >= 0, "0 (off) or more"),
            ("top_p", 0 < self.top_p <= 1, "in (0, 1]"),
            ("min_p", 0 <= self.min_p < 1, "in [0, 1)"),
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "above 0, and finite"),
            ("presence_penalty", math.isfinite(self.presence_penalty), "finite"),
            ("frequency_penalty", math.isfinite(self.frequency_penalty), "finite"),
            ("logit_bias", all(b < math.inf for b in self.logit_bias.values()), "numbers, or -inf to ban"),
            ("seed", 0 <= self.seed < 2**63, "in [0, 2^63)"),
            ("stop", all(self.stop), "texts that are not empty"),
            ("logprobs", self.logprobs is None or self.logprobs >= 0, "0 or more"),
        ):
            if not ok:
                raise UsageError(f"{name} must be {expected}, got {getattr(self, name)!r}")


class Finish(Enum):
    """Why a request ended."""

    STOP = "stop"  # an end token or a stop text
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class TokenScore:
    """Log-probability of a chosen token, and of the best alternatives, best first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """`computed` tokens of prompt and output have their keys and values in `held` pages.

    `priority`: lower goes first. `domain` separates prefix caches, as of tenants or adapters.
    `score_all` keeps the scores of every position in `logits` and generates nothing.
    """

    id: int
    prompt: Sequence[int]
    params: SamplingParams
    priority: int = 0
    domain: str = ""
    score_all: bool = False
    output: list[int] = field(default_factory=list)
    scores: list[TokenScore] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)
    computed: int = 0
    held: Held = field(default_factory=lambda: Held([], []))
    finish: Finish | None = None
    preempted: int = 0
    cached: int = 0  # tokens that the prefix cache saved when it last began

    @property
    def tokens(self) -> list[int]:
        """Prompt and output."""
        return [*self.prompt, *self.output]

    @property
    def length(self) -> int:
        """Number of tokens so far."""
        return len(self.prompt) + len(self.output)
