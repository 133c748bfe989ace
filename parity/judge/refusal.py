"""Steps that are calls which torch documents as errors: `refused:<name>`. A target that accepts one departs.

The step's one output says whether the call raised; which error it was is said in a note, since the words and
types of errors are nobody's promise across devices. Does not judge values.
"""

from __future__ import annotations

import numpy as np

from parity.case.case import Step
from parity.case.dtype import DTYPES
from parity.case.op_entry import Op
from parity.case.tensor import HostTensor
from parity.judge.budget import Exact

__all__ = ["FORMULA", "entry_of", "expected_refusal", "is_refusal", "remark"]

FORMULA = "refusal"


def is_refusal(op: str) -> bool:
    """Whether an op id names a call that must raise."""
    return op.startswith("refused:")


def entry_of(op: str) -> Op:
    """Return what a witness is held against: nothing is computed."""
    return Op(id=op, formula="must raise", inputs=(), exact=True)


def expected_refusal() -> tuple[Exact, ...]:
    """Return the one output: true."""
    return (Exact(bits=HostTensor.of(np.array([True]), DTYPES["bool"])),)


def remark(step: Step) -> str:
    """Return what to say of the error that came, or did not come; empty where it is the documented one."""
    documented, raised = (str(step.attrs.get(name, "")) for name in ("documented", "raised"))
    if not raised:
        return f"accepted arguments for which torch documents {documented}"
    return "" if raised in documented.split(" or ") else f"raised {raised}, torch documents {documented}"
