"""Whether a step ran where and as precisely as asked, from the backend's own evidence.

Absence of an exception proves nothing: runtimes fall back and substitute silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from parity.backend.base import SLOW_PATH, Node, Witness
from parity.case.dtype import DTYPES, DType
from parity.case.op import Op
from parity.judge.verdict import Verdict

__all__ = ["REDUCED", "examine"]

# Ways to compute float32 products with fewer bits that are no types of their own.
REDUCED = ("tf32", "hf32", "bf16x2", "bf16x3")


def examine(witness: Witness | None, op: Op, dtypes: Sequence[DType]) -> tuple[Verdict, str]:
    """Return what the witness of a step supports, `within` at best, and the reason when less.

    `dtypes` are those of the step's inputs and outputs. A node at a reduced precision, a float node
    narrower than all of them, or an op none of whose nodes ran at an asked precision, is
    `substituted`; wider nodes beside such a one are the op's own intermediates. An `exact` op is
    proved by its bits, so for it a wider node does not matter. What a slow part of the chip ran
    was executed there, and is said.
    """
    if witness is None:
        return Verdict.UNJUDGED, "the backend gave no witness of what ran"
    slow = [node for node in witness.executed if node.kind.startswith(SLOW_PATH)]
    verdict, why = _examined(witness, op, dtypes)
    if slow and verdict is Verdict.WITHIN:
        return verdict, f"{_names(slow)}: a slow part of the chip itself ran it"
    return verdict, why


def _examined(witness: Witness, op: Op, dtypes: Sequence[DType]) -> tuple[Verdict, str]:
    if witness.host:
        return Verdict.FELL_BACK, f"{_names(witness.host)} ran on {witness.host[0].device}, not on the target"
    if not witness.executed:
        return Verdict.FELL_BACK, "nothing was executed on the target"
    reduced = [node for node in witness.executed if node.precision in REDUCED]
    if reduced:
        return Verdict.SUBSTITUTED, _substitution(reduced, {d.name for d in dtypes})
    unknown = [node for node in witness.executed if node.precision not in DTYPES]
    if unknown:
        return Verdict.UNJUDGED, f"the backend does not say at which precision {_names(unknown)} ran"
    floats = {d.name for d in dtypes if d.is_float}
    ran = [(node, DTYPES[node.precision]) for node in witness.executed]
    if not floats:
        return _integers(ran, {d.name for d in dtypes})
    as_float = [(node, d) for node, d in ran if d.is_float]
    coarsest = max(DTYPES[name].unit_roundoff for name in floats)
    narrow = [node for node, d in as_float if d.unit_roundoff > coarsest or _smaller_range(d, floats)]
    if narrow:
        return Verdict.SUBSTITUTED, _substitution(narrow, floats)
    if not op.exact and not any(d.name in floats | set(op.compute) for _, d in as_float):
        return Verdict.SUBSTITUTED, _substitution(list(witness.executed), floats)
    return Verdict.WITHIN, ""


def _smaller_range(ran: DType, asked: set[str]) -> bool:
    """Whether a float type cannot hold the range of any asked one (f16 where bf16 was asked)."""
    return ran.name not in asked and all(ran.max_finite < DTYPES[name].max_finite for name in asked)


def _integers(ran: list[tuple[Node, DType]], asked: set[str]) -> tuple[Verdict, str]:
    widest = max((DTYPES[name].bits for name in asked), default=0)
    narrow = [node for node, d in ran if d.bits < widest and d.name not in asked]
    if narrow and len(narrow) == len(ran):
        return Verdict.SUBSTITUTED, _substitution(narrow, asked)
    return Verdict.WITHIN, ""


def _substitution(nodes: list[Node], asked: set[str]) -> str:
    ran = ", ".join(sorted({node.precision for node in nodes}))
    return f"asked for {', '.join(sorted(asked))}; {_names(nodes)} ran at {ran}"


def _names(nodes: Iterable[Node]) -> str:
    names = sorted({node.kind for node in nodes})
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
