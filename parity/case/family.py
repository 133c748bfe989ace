"""How a case file is written: a decorator on a function that builds one case from its parameters.

    @family("ops/softmax", dtype=FLOATS, shape=("1", "7x257"), dist=("normal", "special"))
    def softmax(p):
        '''What a port gets wrong here.'''
        x = tensor("x", p.dtype, dims(p.shape), p.dist)
        return one("softmax", x, dim=-1, result=x.shape)

Parameter values are texts, as they stand in an id; a shape is written `8x1024`, empty `0x8`, or
`scalar`. Every allowed pair of values is in some case. cases/README.md is the guide. Does not
load files; `catalog` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

from parity.case.case import Case, Role, Step, Subject, SubjectKind, TensorSpec
from parity.case.cover import Row, pairwise
from parity.case.dtype import DType, Kind, dtype
from parity.case.ids import CaseId
from parity.case.inputs import check
from parity.case.layout import LAYOUTS, fits
from parity.case.op import OPS, Attr
from parity.errors import UsageError, near_miss

__all__ = [
    "FLOATS",
    "LAYOUTS",
    "REGISTER",
    "Family",
    "Params",
    "Parts",
    "dims",
    "family",
    "fits",
    "observed",
    "one",
    "operands",
    "parts",
    "rows",
    "step",
    "tensor",
    "used",
]

FLOATS = ("f32", "bf16", "f16")

# Where the decorator leaves families in a case file's namespace, so that two functions of one
# name in a file are two families and not one silently lost.
REGISTER = "__families__"

_Shape = tuple[int, ...]


class Params:
    """One row of parameters: `p.shape` is its text."""

    __slots__ = ("_row",)

    def __init__(self, row: Mapping[str, str]) -> None:
        self._row = row

    def __getattr__(self, name: str) -> str:
        try:
            return self._row[name]
        except KeyError:
            raise AttributeError(
                f"the family has no parameter '{name}'{near_miss(name, self._row)}"
            ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a builder returns: a case without its id."""

    inputs: tuple[TensorSpec, ...]
    steps: tuple[Step, ...] = ()
    subject: Subject | None = None


_Builder = Callable[[Params], Parts]


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """All cases of one `path`. `also` rows are cases besides the covering design.

    `large` says that all of them take long, whatever they weigh, and belong to the suite of that name.
    """

    path: str
    domains: Mapping[str, tuple[str, ...]]
    builder: _Builder
    allowed: Callable[[Params], bool]
    also: tuple[Mapping[str, str], ...] = ()
    large: bool = False
    line: int = 0

    def rows(self) -> list[Row]:
        """Return the parameters of every case. Raises UsageError for a value that no row may hold."""
        found = pairwise(self.domains, lambda row: self.allowed(Params(row)))
        if not found:
            raise UsageError(f"'{self.path}': `allowed` leaves no case")
        for name, values in self.domains.items():
            lost = [value for value in values if all(row[name] != value for row in found)]
            if lost:
                raise UsageError(f"'{self.path}': `allowed` leaves no case with {name}={lost[0]}")
        return [*found, *(row for row in map(dict, self.also) if row not in found)]

    def build(self, case: CaseId, *, source: str) -> Case:
        """Build one case. Raises UsageError for an op, distribution or layout that does not exist."""
        made = self.builder(Params(dict(case.params)))
        if not isinstance(made, Parts):
            raise UsageError(f"its function must return parts(...) or one(...), not {type(made).__name__}")
        for spec in made.inputs:
            check(spec)
        for a_step in made.steps:
            if a_step.op not in OPS:
                raise UsageError(f"step '{a_step.name}': unknown op '{a_step.op}'{near_miss(a_step.op, OPS)}")
        return Case(id=case, inputs=made.inputs, steps=made.steps, subject=made.subject, source=source)


def family(
    path: str,
    *,
    allowed: Callable[[Params], bool] = lambda _: True,
    also: Sequence[Mapping[str, str]] = (),
    large: bool = False,
    **domains: Sequence[str],
) -> Callable[[_Builder], _Builder]:
    """Declare the cases of `path`; the function's docstring says what they catch.

    `allowed(p)` refuses combinations that make no sense. `also` adds rows of parameters that must
    stay, whatever the covering design picks. A `large` family is run only by whoever asks for it.
    """

    def declare(builder: _Builder) -> _Builder:
        for name, values in domains.items():
            if isinstance(values, str) or not values or not all(isinstance(v, str) for v in values):
                raise UsageError(f"'{path}': {name} must be several texts, got {values!r}")
            if len(set(values)) != len(values):
                raise UsageError(f"'{path}': {name} holds a value twice: {values!r}")
        CaseId.of(path, {name: values[0] for name, values in domains.items()})
        if not builder.__doc__:
            raise UsageError(f"'{path}': {builder.__name__} needs a docstring that says what it catches")
        found = Family(
            path=path,
            domains={name: tuple(values) for name, values in domains.items()},
            builder=builder,
            allowed=allowed,
            also=tuple(also),
            large=large,
            line=builder.__code__.co_firstlineno,
        )
        builder.__globals__.setdefault(REGISTER, []).append(found)
        return builder

    return declare


@cache
def dims(text: str) -> _Shape:
    """Read a shape: `8x1024`, `0x8`, `scalar`."""
    if text == "scalar":
        return ()
    try:
        return tuple(int(n) for n in text.split("x"))
    except ValueError:
        raise UsageError(f"'{text}' is not a shape: expected numbers joined by x, or scalar") from None


def operands(text: str) -> tuple[_Shape, ...]:
    """Read several shapes joined by dots: `2x1x9x33.33x5`."""
    return tuple(dims(part) for part in text.split("."))


def rows(shape: _Shape) -> int:
    """Count the rows of the last dimension: `special` needs two, for its first one is all special."""
    return math.prod(shape[:-1]) if shape else 1


def tensor(
    name: str,
    of: str | DType,
    shape: _Shape,
    /,
    dist: str = "normal",
    *,
    layout: str = "contiguous",
    role: Role = Role.INPUT,
    **options: Attr,
) -> TensorSpec:
    """Describe one generated tensor."""
    return TensorSpec(
        name=name,
        dtype=dtype(of) if isinstance(of, str) else of,
        shape=shape,
        dist=dist,
        layout=layout,
        role=role,
        options=MappingProxyType(options),
    )


def step(op: str, *inputs: str | TensorSpec | None, name: str = "", outputs: str = "", **attrs: Attr) -> Step:
    """Describe one step. Its name is the op's and its outputs are named as in the op table, unless given.

    `outputs` separates several names by commas.
    """
    return _step(op, inputs, name=name, outputs=outputs, attrs=attrs)


def _step(
    op: str, inputs: Sequence[str | TensorSpec | None], *, name: str, outputs: str, attrs: Mapping[str, Attr]
) -> Step:
    if op not in OPS:
        raise UsageError(f"unknown op '{op}'{near_miss(op, OPS)}")
    return Step(
        name=name or op,
        op=op,
        inputs=tuple(x.name if isinstance(x, TensorSpec) else x for x in inputs),
        outputs=tuple(outputs.split(",")) if outputs else OPS[op].outputs,
        attrs=MappingProxyType(attrs),
    )


def parts(inputs: Sequence[TensorSpec], *steps: Step) -> Parts:
    """Describe a case of several steps."""
    return Parts(inputs=tuple(inputs), steps=steps)


def observed(kind: str, *inputs: TensorSpec, **options: Attr) -> Parts:
    """Describe a case that runs an `engine` or a `module` and records each of its steps."""
    subject = Subject(kind=SubjectKind(kind), options=MappingProxyType(options))
    return Parts(inputs=tuple(inputs), subject=subject)


def one(
    op: str,
    *inputs: TensorSpec | None,
    result: _Shape = (1,),
    result_dtype: str | DType | None = None,
    **attrs: Attr,
) -> Parts:
    """Describe a case of one step, and of a second where `result`, its first output's shape, is empty.

    `result_dtype` is that output's type, by default that of the first input.
    """
    given = tuple(x for x in inputs if x is not None)
    made = parts(given, _step(op, inputs, name="", outputs="", attrs=attrs))
    return used(made, result, result_dtype or given[0].dtype) if 0 in result else made


def used(made: Parts, empty: _Shape, of: str | DType) -> Parts:
    """Add a step that joins the last step's empty first output with a sentinel.

    A case is within only if an element was compared, and an empty result has none: joined along
    its empty dimension it must vanish and leave the sentinel exactly.
    """
    axis = empty.index(0)
    shape = (*empty[:axis], 1, *empty[axis + 1 :])
    if not math.prod(shape):
        raise UsageError(f"a result of shape {empty} is empty in two dimensions and joins with nothing")
    kind = dtype(of).kind if isinstance(of, str) else of.kind
    dist = {Kind.FLOAT: "normal", Kind.INT: "range", Kind.BOOL: "bool"}[kind]
    sentinel = tensor("sentinel", of, shape, dist)
    join = step("cat", made.steps[-1].outputs[0], sentinel, name="use_empty", outputs="joined", dim=axis)
    return Parts(inputs=(*made.inputs, sentinel), steps=(*made.steps, join))
