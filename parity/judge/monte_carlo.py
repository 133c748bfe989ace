"""What a call of torch with no formula of ours may give, by Monte-Carlo arithmetic (NUMERICS.md 2).

The oracle is the call itself in float64. Samples are the same call with every operation rounded at
random as the device's arithmetic rounds: float32 inside an operation, the tensor's type where one is
stored. Their distance from the oracle is the expected error of any honest evaluation. Says nothing of
what is random, has no float64 form or is lost in its own rounding: `Unjudgeable` names the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parity.backend.base import Unsupported
from parity.backend.profile import Accumulator, Profile
from parity.backend.torch_tensor import to_torch
from parity.case.dtype import DType, dtype
from parity.case.tensor import HostTensor
from parity.judge.budget import Expected
from parity.judge.monte_carlo_mode import Rounded, Unmodelled
from parity.judge.monte_carlo_noise import Noise
from parity.judge.monte_carlo_spread import Spread, Unjudgeable
from parity.judge.monte_carlo_twins import Ran, run

__all__ = ["SAMPLES", "Enough", "Unjudgeable", "expected_of"]

_Call = Callable[..., Any]
Enough = Callable[[tuple[Expected, ...]], bool]

# Enough that the scatter of an element's own sigma widens its bound by no more than half (`Spread`); a
# quarter of them for tensors of which even float64 copies are dear.
SAMPLES = 32
_FEWER, _LARGE = 8, 1 << 22
# Samples after which a result that they allow already is not asked any more of (`Spread.least`).
_FIRST = (4, 8, 16)
# Roundings this many times larger show where the call jumps: what an honest one may cross, each of
# these crosses with a probability near one half, all but 1 in 4,000 of the places.
_AMPLIFIED = (8.0, 64.0) * 6
# Of an arithmetic of 16 bits, 64 roundings are a quarter of a value: they would reach what none crosses.
_OF_16_BITS = (8.0,) * 12
_TIES = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arithmetic:
    """What a device computes a call in; `stores` keeps what is inside of an operation, too."""

    accumulator: Accumulator
    stores: DType | None
    ulps: Mapping[str, float]
    flush: bool

    @property
    def unit(self) -> float:
        return max(self.accumulator.unit, self.stores.unit_roundoff if self.stores else 0.0)


def expected_of(
    call: _Call,
    inputs: Sequence[HostTensor],
    *,
    name: str,
    profile: Profile,
    named: DType | None = None,
    enough: Enough = lambda _: False,
) -> Iterator[tuple[Expected, ...]]:
    """Yield what the outputs of a call may be on exactly these inputs, then on declared readings of numbers.

    `call` takes torch tensors on the CPU in the order of `inputs`; `name` is the op id by which the
    profile declares facts, for the float type that the call itself has `named`, or else those of its
    inputs: `accumulates_in` of sums inside of an operation, `intermediates_rounded` of
    all that is inside (values: a dtype), `results_flushed`, and `numbers_rounded` where an argument that
    is a number is read in the type of the tensor before it. `enough` is asked of what the first samples
    allow, which all of them do too: where it says yes, that is what is yielded. Raises Unjudgeable.
    """
    given = [to_torch(t, torch.device("cpu")) for t in inputs]
    kinds = [kind for kind in ([t.dtype for t in inputs] if named is None else [named]) if kind.is_float]

    def declared(fact: str) -> str | None:
        found = (profile.fact(fact, op=name, dtype=kind) for kind in kinds)
        return next((item.value for item in found if item is not None), None)

    sums, stores = declared("accumulates_in"), declared("intermediates_rounded")
    arithmetic = _Arithmetic(
        accumulator=Accumulator(dtype=dtype(sums)) if sums else profile.accumulator,
        stores=dtype(stores) if stores else None,
        ulps=profile.ulps,
        flush=profile.flush_subnormals or declared("results_flushed") is not None,
    )
    yield _evaluated(call, given, arithmetic, enough, numbers=False)
    if declared("numbers_rounded") is not None:
        yield _evaluated(call, given, arithmetic, enough, numbers=True)


def _evaluated(
    call: _Call, given: Sequence[Tensor], arithmetic: _Arithmetic, enough: Enough, *, numbers: bool
) -> tuple[Expected, ...]:
    try:
        ran = run(call, given, numbers=numbers)
        if not ran.results:
            raise Unjudgeable("it gives no tensor")
        if any(r.dtype is torch.float64 for r in ran.results):
            raise Unjudgeable("a float64 result cannot be judged by a float64 oracle")
        return _sampled(call, given, ran, arithmetic, enough, numbers=numbers)
    except (Unmodelled, Unsupported) as error:
        raise Unjudgeable(_first_line(error)) from error
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise Unjudgeable(f"it cannot be evaluated in float64: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _sampled(
    call: _Call, given: Sequence[Tensor], ran: Ran, arithmetic: _Arithmetic, enough: Enough, *, numbers: bool
) -> tuple[Expected, ...]:
    spreads = [Spread(r) for r in ran.results]
    count = SAMPLES if max(r.values.numel() for r in ran.results) <= _LARGE else _FEWER
    larger = _OF_16_BITS if arithmetic.unit > 2.0**-16 else _AMPLIFIED
    amounts = [] if ran.moves_only else [*[1.0] * count, *larger]
    amounts += [0.0] * (_TIES if ran.orders else 0)
    for number, by in enumerate(amounts):
        # Seeded by number alone: the same step gets the same verdict.
        draw = torch.Generator().manual_seed(number)
        noise = Noise(
            draw,
            accumulator=arithmetic.accumulator,
            ulps=arithmetic.ulps,
            stores=arithmetic.stores,
            by=by,
        )
        sample = run(call, given, rounding=Rounded(noise), draw=draw, by=by, numbers=numbers)
        if [s.values.shape for s in sample.results] != [r.values.shape for r in ran.results]:
            raise Unjudgeable("how many elements it gives depends on rounding")
        for spread, result in zip(spreads, sample.results, strict=True):
            spread.add(result.values, by=by)
        if number + 1 in _FIRST and count == SAMPLES and by == 1:
            least = tuple(s.least(of=SAMPLES, unit=arithmetic.unit, flush=arithmetic.flush) for s in spreads)
            known = tuple(e for e in least if e is not None)
            if len(known) == len(least) and enough(known):
                return known
    return tuple(
        s.expected(unit=arithmetic.unit, moves_only=ran.moves_only, flush=arithmetic.flush) for s in spreads
    )
