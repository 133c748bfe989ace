"""A large product judged by some of its rows and by random projections of all of it; both must hold.

Rows are judged by the budget of their op, with the float64 product of those rows alone. Does not
choose rows of chance (`sampled`) nor project (`freivalds`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from parity.backend.profile import Profile
from parity.backend.torch_tensor import to_torch
from parity.case.case import Step
from parity.case.tensor import HostTensor, contiguous_stride
from parity.judge.budget import Budget, Question
from parity.judge.classes.sums import of_addmm, of_linear, of_product
from parity.judge.compare import compare
from parity.judge.freivalds import Probed, examine
from parity.judge.oracle import flushing, readings
from parity.judge.product_pass import Companions, Product, companions
from parity.judge.rows import Divided, Index, of_rows
from parity.judge.verdict import OutputJudgement, Verdict

__all__ = ["PRODUCTS", "judge_product", "product_of"]

PRODUCTS = ("addmm", "linear", "matmul")
_FLOATS = ("bf16", "f16", "f32")


def product_of(
    step: Step,
    inputs: Sequence[HostTensor | None],
    output: HostTensor,
    rows: int,
    profile: Profile,
) -> Product | None:
    """Return a step as one product of two matrices, None where it is something else."""
    match step.op, inputs:
        case "linear", [HostTensor() as a, HostTensor() as b, *rest]:
            c = rest[0] if rest else None
        case "matmul", [HostTensor() as a, HostTensor() as b]:
            c, b = None, _turned(b)
        case "addmm", [HostTensor() as c, HostTensor() as a, HostTensor() as b]:
            b = _turned(b)
        case _:
            return None
    if any(t.dtype.name not in _FLOATS for t in (a, b, output)):
        return None
    if len(b.shape) != 2 or output.shape[-1] != b.shape[0] or a.shape[-1] != b.shape[1]:
        return None
    if c is not None and c.shape not in ((b.shape[0],), (rows, b.shape[0])):
        return None
    numbers = {name: float(value) for name, value in step.attrs.items() if isinstance(value, (int, float))}
    return Product(
        question=Question(op=step.op, inputs=(), raw=tuple(inputs), attrs=step.attrs, profile=profile),
        a=_matrix(a, rows),
        b=b,
        y=_matrix(output, rows),
        addend=c,
        alpha=numbers.get("alpha", 1.0),
        beta=numbers.get("beta", 1.0),
    )


def _turned(tensor: HostTensor) -> HostTensor:
    return dataclasses.replace(tensor, shape=tensor.shape[::-1], stride=tensor.stride[::-1])


def _matrix(tensor: HostTensor, rows: int) -> HostTensor:
    if len(tensor.shape) == 2:
        return tensor
    shape = (rows, tensor.shape[-1])
    return dataclasses.replace(tensor.contiguous(), shape=shape, stride=contiguous_stride(shape))


def judge_product(
    step: Step, product: Product, divided: Divided, outputs: tuple[HostTensor, ...], rows: Index, *, key: str
) -> tuple[OutputJudgement, Index, str] | None:
    """Return the judgement of `rows` and of those that projections name, these rows, and what to say.

    The reading of the inputs is the first under which both hold. None where the projections are in
    doubt about rows that were not judged.
    """
    first = None
    for reading, read in (("", product.read), *readings(product.question)):
        found = _under(step, dataclasses.replace(product, read=read), divided, outputs, rows, key)
        if found is None:
            return None
        judged, seen, text = found
        if judged.verdict is Verdict.WITHIN:
            return judged, seen, "; ".join(filter(None, (reading, text)))
        first = first or found
    return first


def _under(
    step: Step, product: Product, divided: Divided, outputs: tuple[HostTensor, ...], rows: Index, key: str
) -> tuple[OutputJudgement, Index, str] | None:
    if len(rows) == divided.count:
        found = companions(product, rows)
        expected = _expected(product, divided, rows, found)
        return compare(divided.outputs(outputs, rows), step.outputs, expected)[0], rows, ""
    found, probed = examine(product, rows, key)
    if probed is None:
        return None
    more = np.setdiff1d(probed.suspects, rows)
    if len(more):
        found = found.joined(companions(product, more))
    seen = np.concatenate((rows, more))
    (judged,) = compare(
        divided.outputs(outputs, seen), step.outputs, _expected(product, divided, seen, found)
    )
    if judged.verdict is Verdict.WITHIN and probed.guilty:
        note = "a random projection of all rows is further off than errors within their bounds can add up to"
        judged = dataclasses.replace(judged, verdict=Verdict.EXCEEDS, note=note)
    elif judged.verdict is Verdict.WITHIN and probed.doubtful:
        return None
    return judged, seen, _said(probed)


def _said(probed: Probed) -> str:
    return (
        f"the rest in {probed.count:,} random projections, the largest {probed.largest:.1f} sigma, "
        f"limit {probed.limit:.1f}"
    )


def _expected(product: Product, divided: Divided, rows: Index, found: Companions) -> tuple[Budget, ...]:
    """Return the budget of the op on these rows, in the shape that the rows of its output have."""
    q = product.question
    made = of_product(
        q,
        value=found.value,
        magnitude=found.magnitude,
        squares=found.squares,
        reach=found.magnitude.nan_to_num(nan=0.0, posinf=0.0),
        terms=product.a.shape[1],
        dtype=q.dtype,
    )
    c = product.addend
    if c is not None:
        c = c if len(c.shape) == 1 else of_rows(c, 1, rows)
    added = None if c is None else to_torch(c, torch.device("cpu")).double()
    if q.op == "addmm":
        assert added is not None
        budget = of_addmm(q, made, added)
    else:
        budget = of_linear(q, made, added)
    lead = (1,) * (len(divided.lead) - 1)

    def shaped(x: torch.Tensor | None) -> torch.Tensor | None:
        return None if x is None else x.reshape(*lead, *x.shape)

    value, hard, sigma, free = (shaped(x) for x in (budget.value, budget.hard, budget.sigma, budget.free))
    assert value is not None and hard is not None and sigma is not None
    made_flat = dataclasses.replace(budget, value=value, hard=hard, sigma=sigma, free=free)
    (flushed,) = flushing(q, (made_flat,))
    assert isinstance(flushed, Budget)
    return (flushed,)
