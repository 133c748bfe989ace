"""Steps that are calls of torch functions with no canonical op: `torch:<name>`, by Monte-Carlo arithmetic.

Does not judge ops of the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from parity.backend.base import Unsupported
from parity.backend.profile import Profile
from parity.backend.torch_call import decode_call
from parity.case.case import Step
from parity.case.op_entry import Op
from parity.case.tensor import HostTensor
from parity.errors import GoldenError
from parity.judge.budget import Expected
from parity.judge.monte_carlo import Unjudgeable, expected_of

__all__ = ["FORMULA", "entry_of", "expected_call", "is_call"]

FORMULA = "monte_carlo"


def is_call(op: str) -> bool:
    """Whether an op id names a function of torch rather than an op of the table."""
    return op.startswith("torch:")


def entry_of(op: str) -> Op:
    """Return what a witness is held against: a call computes in the types of its tensors."""
    return Op(id=op, formula="the call itself in float64", inputs=("x*",))


def expected_call(
    step: Step, consumed: Sequence[HostTensor | None], profile: Profile
) -> Iterator[tuple[Expected, ...]]:
    """Yield what each output of a call may be, one reading after another. Raises Unjudgeable with a reason.

    A profile declares its facts of `torch:<function>`, whether it was called as a method or not.
    """
    try:
        call = decode_call(str(step.attrs.get("call", "")))
    except (GoldenError, Unsupported) as error:
        raise Unjudgeable(str(error)) from error
    if f"torch:{call.name}" != step.op:
        raise Unjudgeable(f"recorded as {step.op}, but its call is of {call.name}")
    held = [t for t in consumed if t is not None]
    if len(held) != len(consumed):
        raise Unjudgeable("one of its inputs is absent")
    name = f"torch:{call.name.rpartition('.')[2].strip('_')}"
    yield from expected_of(lambda *given: call.run(given), held, name=name, profile=profile)
