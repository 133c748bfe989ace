"""The closed set of verdicts, and the evidence without which none of them is `within`.

Every judgement is a frozen value; the constructors refuse a `within` that nothing supports, so
no later stage can invent one. Does not decide anything: `compare` and `judge` do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from parity.backend.base import Witness
from parity.case.ids import CaseId

__all__ = [
    "Apart",
    "CaseJudgement",
    "Cause",
    "EndToEnd",
    "Evidence",
    "Outcome",
    "OutputJudgement",
    "StepJudgement",
    "Verdict",
    "worst",
]


class Verdict(Enum):
    """What is said of a step or case, from worst to best; `rank` orders them."""

    CRASHED = "crashed"
    TIMED_OUT = "timed_out"
    EXCEEDS = "exceeds"
    UNSTABLE = "unstable"
    SUBSTITUTED = "substituted"
    FELL_BACK = "fell_back"
    UNSUPPORTED = "unsupported"
    STALE = "stale"
    UNJUDGED = "unjudged"
    KNOWN = "known"
    WITHIN = "within"

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Verdict).index(self)

    @property
    def departs(self) -> bool:
        """Whether it is worse than `unjudged`, so that a run fails with exit code 1."""
        return self.rank < Verdict.UNJUDGED.rank


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the worst of the verdicts; of none, `unjudged`: nothing was judged."""
    return min(verdicts, key=lambda v: v.rank, default=Verdict.UNJUDGED)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputJudgement:
    """One output tensor against its oracle.

    `elements` were compared; `free` were not, because any value is legal there (an overflow that
    depends on the order of a sum). `worst` is max |error| / bound, `rms` is rms(error / sigma);
    both None where the result must be exact or is one of a set. `flips` counts 16-bit results
    that are not the correctly rounded oracle. `oracle` and `got` are the values at `worst_index`.
    `probed` elements of a large result were not compared one by one: they lie in rows that random
    projections or a screening of all rows did not name.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    verdict: Verdict
    elements: int
    free: int = 0
    probed: int = 0
    worst: float | None = None
    worst_index: tuple[int, ...] | None = None
    oracle: float | None = None
    got: float | None = None
    rms: float | None = None
    rms_limit: float | None = None
    flips: int | None = None
    flips_limit: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.verdict is not Verdict.WITHIN:
            return
        if self.elements + self.free + self.probed != math.prod(self.shape):
            raise ValueError(f"'{self.name}' within needs every element accounted for: {self}")
        if self.probed and not self.elements:
            raise ValueError(f"'{self.name}' within needs an element that was compared: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What supports a `within`: elements compared, the digest of inputs that both the recording
    and the oracle used, and the backend's witness of at least one node executed on the target."""

    elements: int
    inputs_digest: str
    witness: Witness

    def __post_init__(self) -> None:
        if not self.inputs_digest.startswith("sha256:"):
            raise ValueError("evidence needs the digest of the inputs")
        if not self.witness.executed or self.witness.host:
            raise ValueError("evidence needs a witness of execution on the target and on nothing else")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepJudgement:
    """One step judged alone, on the inputs that it consumed. `formula` names the budget class."""

    name: str
    op: str
    verdict: Verdict
    outputs: tuple[OutputJudgement, ...] = ()
    evidence: Evidence | None = None
    formula: str = ""
    note: str = ""
    seconds: float | None = None
    bytes: int = 0
    flops: int = 0

    def __post_init__(self) -> None:
        if self.verdict is not Verdict.WITHIN:
            return
        if self.evidence is None or not self.outputs:
            raise ValueError(f"step '{self.name}' cannot be within without evidence")
        if any(o.verdict is not Verdict.WITHIN for o in self.outputs):
            raise ValueError(f"step '{self.name}' cannot be within: an output is not")
        if self.evidence.elements != sum(o.elements for o in self.outputs):
            raise ValueError(f"step '{self.name}': evidence counts other elements than its outputs")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseJudgement:
    """One side of a case: its verdict is the worst of its steps, or of what kept it from running."""

    verdict: Verdict
    steps: tuple[StepJudgement, ...] = ()
    note: str = ""

    def __post_init__(self) -> None:
        if self.verdict is not Verdict.WITHIN:
            return
        if worst(s.verdict for s in self.steps) is not Verdict.WITHIN or not self.elements:
            raise ValueError("a case is within only when every step is and an element was compared")

    @property
    def elements(self) -> int:
        """Elements compared over all steps."""
        return sum(s.evidence.elements for s in self.steps if s.evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class Apart:
    """How far target and reference are apart at one output: information, never a verdict.

    `unequal` of `elements` differ in value or in what is not finite; `largest` |target - reference|
    and `relative_l2` are over those that are finite on both sides.
    """

    step: str
    output: str
    elements: int
    unequal: int
    largest: float
    relative_l2: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EndToEnd:
    """Next-token scores of a whole run beside the exact ones, over `positions`.

    `kl` is KL(exact || run) in nats: mean, 99th percentile, largest. `flips` counts positions whose best
    token is another one, `illegal` those where the exact margin is more than 6 of its own sigmas; `margin`
    is the largest of these ratios. `logprob` is |change| of the log-probabilities of the tokens that
    followed: mean, 99th percentile, largest; `perplexity` the relative change of perplexity with its 95 %
    interval. `z` is rms(error / sigma) of the scores. Limits are None where no sample of the noise was
    given, and `needed` is how many positions tell a run at a limit from chance.
    """

    verdict: Verdict
    positions: int
    kl: tuple[float, float, float]
    kl_limit: float | None = None
    flips: int = 0
    illegal: int | None = None
    margin: float | None = None
    logprob: tuple[float, float, float] | None = None
    perplexity: tuple[float, float, float] | None = None
    z: float | None = None
    z_limit: float | None = None
    needed: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.verdict is not Verdict.WITHIN:
            return
        if self.kl_limit is None or self.z is None or self.z_limit is None or self.illegal != 0:
            raise ValueError(
                "end to end cannot be within without samples of the noise, or with illegal flips"
            )
        if not (self.kl[0] <= self.kl_limit and self.z <= self.z_limit):
            raise ValueError("end to end cannot be within: a gate is exceeded")
        if self.needed is None or not 0 < self.needed <= self.positions:
            raise ValueError(f"end to end cannot be within on {self.positions} positions")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """What probably went wrong at a step, with how many of its `failing` elements that explains.

    `kind` is a member of `localize.diagnose.CauseKind`; `text` is the sentence of a report.
    """

    step: str
    kind: str
    text: str
    explained: int
    failing: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Both sides of one case. `verdict` is the target's, after declared deviations.

    `reference` is None when the user named the oracle as reference. `seconds` is the wall time of
    recording and judging; `deviation` the reason of a declared one that applied; `causes` the likely
    ones of each departing step, likeliest first. `ends` is the target's end-to-end judgement: a departure
    there counts, too few positions to judge do not, since every step was judged alone.
    """

    case: CaseId
    source: str
    verdict: Verdict
    target: CaseJudgement
    reference: CaseJudgement | None = None
    seconds: float = 0.0
    deviation: str = ""
    apart: tuple[Apart, ...] = ()
    causes: tuple[Cause, ...] = ()
    ends: EndToEnd | None = None

    def __post_init__(self) -> None:
        if self.verdict is Verdict.WITHIN and self.ends is not None and self.ends.verdict.departs:
            raise ValueError(f"{self.case}: cannot be within when its end is {self.ends.verdict.value}")
        if self.verdict is Verdict.WITHIN and self.target.verdict is not Verdict.WITHIN:
            raise ValueError(f"{self.case}: cannot be within when its target is {self.target.verdict.value}")

    @property
    def gate(self) -> Verdict:
        """What decides the exit code: the worse of the verdict and the reference's own."""
        return worst([self.verdict, *([self.reference.verdict] if self.reference else [])])
