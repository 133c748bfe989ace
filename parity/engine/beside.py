"""Another implementation to be timed beside the engine: `generate` of transformers, over the same files.

transformers is no dependency: it is looked for by name when asked for. Compares no results.
"""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from parity.engine.bench import Task
from parity.engine.model.folder import config_of, dtype_named, own_dtype
from parity.errors import UsageError

__all__ = ["Transformers", "transformers"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transformers:
    """One way of its `generate`: which attention, and which cache."""

    name: str
    model: Any
    attention: str
    options: dict[str, Any]

    def seconds(self, task: Task, prompts: Sequence[Sequence[int]]) -> list[float]:
        """Return the seconds of each decode step, or of the prefill."""
        self.model.set_attn_implementation(self.attention)
        times: list[float] = []

        def note(tokens: torch.Tensor, _: object, **__: object) -> torch.Tensor:
            times.append(time.perf_counter())
            return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)

        given = torch.tensor(prompts, device=self.model.device)
        start = time.perf_counter()
        self.model.generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=task.steps + 1,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            stopping_criteria=[note],
            **self.options,
        )
        if not task.steps:
            return [times[0] - start]
        return [after - before for before, after in itertools.pairwise(times)]


def transformers(path: Path, *, device: str, dtype: str | None) -> list[Transformers]:
    """Return the ways to compare with: its default, and the two that were fastest on CPUs (ENGINE.md §4)."""
    try:
        found = importlib.import_module("transformers")
    except ModuleNotFoundError:
        raise UsageError(
            "--against transformers: it is not installed here. pip install transformers"
        ) from None
    wanted = dtype_named(dtype if dtype is not None else own_dtype(config_of(path)))
    found.logging.set_verbosity_error()
    model = found.AutoModelForCausalLM.from_pretrained(path, dtype=wanted).to(device).eval()
    model.generation_config.eos_token_id = None
    static = {"cache_implementation": "static"}
    return [
        Transformers(name="hf sdpa", model=model, attention="sdpa", options={}),
        Transformers(name="hf eager", model=model, attention="eager", options={}),
        Transformers(name="hf static", model=model, attention="sdpa", options=static),
    ]
