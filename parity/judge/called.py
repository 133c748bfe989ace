"""Steps that are calls of torch functions with no canonical op: `torch:<name>`, by Monte-Carlo arithmetic.

Does not judge ops of the table.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from parity.backend.base import Unsupported
from parity.backend.profile import Profile
from parity.backend.torch_call import Call, decode_call
from parity.backend.torch_tensor import dtype_of
from parity.case.case import Step
from parity.case.op import OPS
from parity.case.op_entry import Op
from parity.case.tensor import HostTensor
from parity.errors import GoldenError
from parity.judge.budget import Expected
from parity.judge.called_nearly import expected_nearly
from parity.judge.monte_carlo import Enough, Unjudgeable, expected_of

__all__ = ["FORMULA", "entry_of", "expected_call", "is_call"]

FORMULA = "monte_carlo"
# Functions whose formula is an op's, in forms that the op has not: several dimensions, broadcast heads.
_OP_OF = {"rms_norm": "rms_norm", "scaled_dot_product_attention": "attention"}


def is_call(op: str) -> bool:
    """Whether an op id names a function of torch rather than an op of the table."""
    return op.startswith("torch:")


def entry_of(op: str, *, exact: bool) -> Op:
    """Return what a witness is held against: a call computes in the types of its tensors, or as its op does.

    One that gives no floats is `exact`: its bits prove it.
    """
    same = OPS.get(_OP_OF.get(op.rpartition(".")[2], ""))
    compute = same.compute if same is not None else ()
    return Op(id=op, formula="the call itself in float64", inputs=("x*",), exact=exact, compute=compute)


def expected_call(
    step: Step,
    consumed: Sequence[HostTensor | None],
    profile: Profile,
    *,
    enough: Enough = lambda _: False,
) -> Iterator[tuple[Expected, ...]]:
    """Yield what each output of a call may be, one reading after another. Raises Unjudgeable with a reason.

    A profile declares its facts of `torch:<function>`, whether it was called as a method or not. `enough` is
    asked of less than a call may give, known at less cost: where it says yes, that is what is yielded.
    """
    call, held = _called(step, consumed)
    nearly = expected_nearly(call, held)
    if nearly is not None and enough(nearly):
        yield nearly
        return
    name = f"torch:{call.name.rpartition('.')[2].strip('_')}"
    run = functools.partial(_run, call)
    kind = call.kwargs.get("dtype")
    named = dtype_of(kind) if isinstance(kind, torch.dtype) and kind.is_floating_point else None
    yield from expected_of(run, held, name=name, profile=profile, named=named, enough=enough)


def _run(call: Call, *given: Tensor) -> tuple[Tensor, ...]:
    return call.run(given)


def _called(step: Step, consumed: Sequence[HostTensor | None]) -> tuple[Call, list[HostTensor]]:
    try:
        call = decode_call(str(step.attrs.get("call", "")))
    except (GoldenError, Unsupported) as error:
        raise Unjudgeable(str(error)) from error
    if f"torch:{call.name}" != step.op:
        raise Unjudgeable(f"recorded as {step.op}, but its call is of {call.name}")
    held = [t for t in consumed if t is not None]
    if len(held) != len(consumed):
        raise Unjudgeable("one of its inputs is absent")
    return call, held
