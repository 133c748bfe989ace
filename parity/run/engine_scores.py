"""What the end of an engine case is held against: its scores in float64, and how far rounding moves them.

Both are made on this host from the same weights and the same plan, so no reference device is needed.
Does not judge; `judge.end_to_end` does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

import parity.engine.ops.reference  # noqa: F401  # declares the ops
from parity.backend.torch_tensor import to_host, to_torch, torch_dtype
from parity.case.case import Case
from parity.case.draw import key_text
from parity.case.dtype import DTYPES, DType
from parity.case.inputs import generate
from parity.engine.kv.pool import Pool
from parity.engine.model.net import build
from parity.engine.model.weights import Weights
from parity.engine.ops.op import Binder, Wrap
from parity.engine.run.batch import flatten
from parity.run.engine_model import Model, model_of
from parity.run.noise import logit_samples
from parity.run.plan import Plan, read_plan
from parity.run.subject import Ends

__all__ = ["LARGEST", "ends_of"]

# Multiply-adds of one run: there are one in float64 and eight samples, about a minute at most.
LARGEST = 1 << 31
_CPU = torch.device("cpu")


def ends_of(case: Case) -> Ends | None:
    """Return what a case's scores are held against, None where it is too large for that.

    Raises GoldenError where weights are not here.
    """
    assert case.subject is not None, "only the engine has scores"
    model, plan = model_of(case), read_plan(str(case.subject.options.get("plan")))
    parameters = sum(math.prod(weight.shape) for weight in model.weights().values())
    tokens = [int(token) for token in generate(case)["tokens"].array()]
    if parameters * len(tokens) > LARGEST:
        return None
    exact = _Net(case, model, plan, tokens, dtype=DTYPES["f64"])
    rounded = _Net(case, model, plan, tokens, dtype=model.dtype)
    samples = logit_samples(rounded.scores)
    one_prompt = len(plan.runs(tokens, key="")) == 1 and len(samples[0]) == len(tokens)
    return Ends(
        oracle=to_host(exact.scores(None)),
        samples=tuple(map(to_host, samples)),
        followed=tuple(tokens[1:]) if one_prompt else (),
    )


class _Net:
    """The network on this host in one type; each run has a pool of its own."""

    def __init__(self, case: Case, model: Model, plan: Plan, tokens: Sequence[int], *, dtype: DType) -> None:
        self._model, self._plan, self._dtype = model, plan, torch_dtype(dtype)
        self._runs = plan.runs(tokens, key=key_text(case.id, "pages"))
        self._weights: Weights = {
            name: _in(to_torch(model.make(weight), _CPU), self._dtype)
            for name, weight in model.weights().items()
        }

    def scores(self, wrap: Wrap | None) -> Tensor:
        """Return the scores of all positions that the plan wants, [T, vocab], sites bound."""
        pool = Pool(self._model.arch, self._plan.slots, dtype=self._dtype, device=_CPU)
        binder = Binder("cpu", force=("*",), wrap=wrap)
        with torch.no_grad():
            network = build(self._model.arch, self._weights, pool, binder)
            return torch.cat([network(flatten(runs, device=_CPU)) for runs in self._runs])


def _in(weight: Tensor, dtype: torch.dtype) -> Tensor:
    # A router's correction may be wider than the network.
    return weight.to(torch.promote_types(weight.dtype, dtype) if dtype is torch.float64 else weight.dtype)
