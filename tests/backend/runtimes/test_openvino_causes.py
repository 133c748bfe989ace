"""Causes of declared departures of ops: the emulation of a `reason` gives the bits that came out."""

import numpy as np
import pytest
import torch

from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.case.catalog import Catalog, builtin_cases
from parity.case.ids import Selector
from parity.case.inputs import generate
from parity.judge import deviations
from parity.judge.judge import judge
from parity.judge.oracle import to_float64
from parity.judge.verdict import Verdict
from parity.run.journal import Journal
from parity.run.recorder import record

DENSE, STRIDED = (f"layout={name},shape=33x129.33x129" for name in ("contiguous", "strided"))


def stored(x):
    return x.to(torch.float32).to(torch.bfloat16).to(torch.float64)


def badly_stored(x):
    """The bf16 of ov::bfloat16: half a unit is added only where the kept part is odd."""
    bits = x.to(torch.float32).view(torch.int32)
    return (((bits + ((bits & 0x10000) >> 1)) >> 16) << 16).view(torch.float32).to(torch.float64)


def in_float32(function):
    """Compute in float32, of int64 in its low 32 bits."""

    def emulated(*inputs):
        narrow = (x.to(torch.int32) if x.dtype is torch.int64 else x for x in inputs)
        return function(*(x.to(torch.float32) for x in narrow))

    return emulated


def remainder(a, b):
    return a - b * (a / b).floor()


def through_int32(q):
    """Truncate by conversion to int32 and back: what does not fit is the least of them."""
    fits = q.abs() < 2**31
    return torch.where(fits, q.trunc(), torch.full_like(q, -(2.0**31)))


def largest(x, *, dim, keepdim):
    """A running maximum that keeps its second operand where one is NaN."""
    rows = x.movedim(dim, 0)
    top = torch.full_like(rows[0], -torch.inf)
    for row in rows:
        top = torch.where(top > row, top, row)
    return top.unsqueeze(dim) if keepdim else top


def variance(x, *, dim, keepdim, correction):
    """The mean and the squares are stored, and 1 / (n - 1) is a constant of bf16."""
    share = badly_stored(torch.tensor(1 / (x.shape[dim] - correction)))
    squares = stored((x - stored(x.mean(dim, keepdim=True))).square())
    return stored(squares.sum(dim, keepdim=keepdim) * share)


def ranged(*, start, end, step, out):
    assert out == "bf16"
    count = len(torch.arange(start, end, step))
    return badly_stored(start + torch.arange(count, dtype=torch.float32) * np.float32(step))


EMULATED = {
    f"ops/remainder:dist=tenths,dtype=f32,{STRIDED}": in_float32(remainder),
    f"ops/remainder:dist=bits,dtype=i64,{DENSE}": in_float32(remainder),
    f"ops/floor_divide:dist=bits,dtype=i64,{DENSE}": in_float32(lambda a, b: (a / b).trunc()),
    f"ops/trunc_divide:dist=special,dtype=f32,{DENSE}": in_float32(lambda a, b: through_int32(a / b)),
    "ops/pow_scalar:dist=bits,dtype=i64,exponent=2,layout=strided,shape=33x129": (
        lambda x, exponent: in_float32(lambda a: through_int32(a**exponent))(x)
    ),
    "ops/amax:dim=0,dist=ties_nan,dtype=f32,keepdim=yes,layout=strided,shape=7x33": largest,
    "ops/relu_squared:dist=special,dtype=f32,layout=strided,shape=33x129": (
        lambda x: torch.where(x > 0, x * x, 0.0).to(torch.float32)
    ),
    "ops/log1p:dist=codes,dtype=bf16,layout=strided,shape=256x256": lambda x: stored(stored(1 + x).log()),
    "ops/arange:dtype=bf16,range=tenths": ranged,
    "ops/stack:count=1,dim=-1,dtype=i64,layout=offset,shape=3x5x16": (
        lambda x, dim: x.to(torch.int32).unsqueeze(dim)
    ),
}
# How many elements of a variance in bf16 may be a last place off: float32 has an order of summation.
VARIANCES = {
    "ops/var:correction=1,dim=-1,dist=shifted,dtype=bf16,keepdim=no,layout=strided,shape=3x65x31": 1,
    "ops/var:correction=1,dim=0,dist=special,dtype=bf16,keepdim=no,layout=contiguous,shape=33x129": 0,
}


@pytest.fixture(scope="module")
def ran():
    """Return a function that runs a case once, under strict, and returns (case, recording)."""
    backend = create(BackendSpec("openvino"), Setting.STRICT)
    backend.open()
    catalog = Catalog.load([builtin_cases()])

    def run(text):
        (case,) = catalog.select([Selector.parse(text)], suite=None)
        return case, record(case, backend, journal=Journal())

    return run


@pytest.fixture(scope="module")
def declared():
    return deviations.load([builtin_cases()], "openvino", Catalog.load([builtin_cases()]).ids())


@pytest.fixture
def compared(ran, declared):
    """Return a function that checks that a case's departure is declared and returns (result, emulated)."""

    def compare(text, emulation):
        case, recording = ran(text)
        provenance = recording.environment.provenance
        if (provenance["openvino_bf16"], provenance["openvino_f16"]) != ("1", "0"):
            pytest.skip("declared for processors that compute in bf16 and not in f16")
        told = judge(case, recording).verdict
        after, _ = deviations.apply(
            declared, case.id, told, mode="eager", setting="strict", provenance=provenance
        )
        assert (told, after) == (Verdict.EXCEEDS, Verdict.KNOWN)
        (step,) = recording.steps
        made = dict(generate(case))
        inputs = [numbers(made[ref.name]) for ref in step.inputs]
        y = numbers(recording.tensors[step.outputs[0].digest])
        return y, emulation(*inputs, **step.attrs).to(y.dtype)

    return compare


def numbers(host):
    return to_float64(host) if host.dtype.is_float else torch.from_numpy(np.array(host.array()))


@pytest.mark.parametrize("text", EMULATED)
def test_the_emulation_of_a_declared_departure_gives_its_bits(compared, text):
    y, emulated = compared(text, EMULATED[text])
    assert emulated.shape == y.shape
    np.testing.assert_array_equal(emulated.numpy(), y.numpy())


@pytest.mark.parametrize("text", VARIANCES)
def test_a_variance_in_bf16_is_off_by_what_is_stored(compared, text):
    y, emulated = compared(text, variance)
    differ = (emulated != y) & ~(emulated.isnan() & y.isnan())
    assert int(differ.sum()) <= VARIANCES[text]
