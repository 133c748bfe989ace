"""Steps cut on a backend in this process, whose faults are planted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parity.case.dtype import dtype
from parity.case.op import OPS
from parity.case.tensor import HostTensor
from parity.judge.verdict import Verdict
from parity.localize.dims import cut, dims_of
from parity.localize.shrink import shrink
from parity.localize.synthetic import drawn, variants
from parity.localize.trial import Trial, Trials
from parity.store.recording import Recording, StepRecord, TensorRef
from tests.localize.sides import Here, backend, case, recorded


def ref(name: str, tensor: HostTensor, stride: tuple[int, ...] | None = None) -> TensorRef:
    return TensorRef(
        name=name,
        role="input",
        dtype=tensor.dtype,
        shape=tensor.shape,
        stride=stride or tensor.stride,
        offset=0,
        digest=tensor.digest(),
    )


def floats(*shape: int) -> HostTensor:
    count = int(np.prod(shape))
    values = np.random.default_rng(7).standard_normal(count).astype(np.float32)
    return HostTensor.of(values.reshape(shape), dtype("f32"))


def integers(values: object) -> HostTensor:
    return HostTensor.of(np.array(values, np.int64), dtype("i64"))


def trial(op: str, *inputs: HostTensor | None, **attrs: object) -> Trial:
    refs = tuple(None if t is None else ref(f"x{i}", t) for i, t in enumerate(inputs))
    outputs = tuple(ref(name, floats(1)) for name in OPS[op].outputs)
    record = StepRecord(name="step", op=op, attrs=attrs, inputs=refs, outputs=outputs)
    return Trial.of(record, inputs)


@pytest.fixture(scope="module")
def source() -> Recording:
    return recorded(case("gelu:dtype=f32"))


def shrunk(given: Trial, source: Recording, fault) -> Trial:
    faulty = backend()
    plain = faulty.run
    faulty.run = lambda step, inputs: tuple(fault(y, *inputs) for y in plain(step, inputs))
    trials = Trials(Here(faulty), source)
    (ran,) = trials.run([given])
    assert ran.judgement.verdict is Verdict.EXCEEDS
    found = shrink(ran, trials)
    assert found.ran.judgement.verdict is Verdict.EXCEEDS
    return found.ran.trial


def shapes(of: Trial) -> list[tuple[int, ...]]:
    return [t.shape for t in of.consumed if t is not None]


def test_a_fault_of_every_element_is_shown_by_the_smallest_product(source: Recording) -> None:
    found = shrunk(trial("linear", floats(6, 40), floats(24, 40), floats(24)), source, lambda y, *_: y * 1.01)
    assert shapes(found) == [(1, 1), (1, 1), (1,)]


def test_a_fault_of_long_sums_keeps_the_sum_long(source: Recording) -> None:
    def loses_the_tail(y, x, w, *_):
        whole = x.shape[-1] // 16 * 16
        return x[..., :whole] @ w[:, :whole].T

    found = shrunk(trial("linear", floats(6, 40), floats(24, 40)), source, loses_the_tail)
    (rows, terms), (columns, _) = shapes(found)
    assert (rows, columns) == (1, 1) and terms % 16


def test_a_fault_of_one_row_keeps_that_row(source: Recording) -> None:
    x = floats(8, 16)

    def third_row(y, given):
        row = torch.from_numpy(np.array(x.array()[3, 5:6]))
        return torch.where((given == row), y * 2, y)

    found = shrunk(trial("exp", x), source, third_row)
    assert shapes(found) == [(1, 1)]
    assert found.consumed[0].array()[0, 0] == x.array()[3, 5]


def test_grouped_heads_are_cut_together(source: Recording) -> None:
    given = trial(
        "attention", floats(2, 6, 4, 8), floats(2, 3, 9, 8), floats(2, 3, 9, 8),
        causal=True, window=None, scale=None,
    )  # fmt: skip
    found = shrunk(given, source, lambda y, *_: y + 1)
    q, k, v = shapes(found)
    assert q[1] == 2 * k[1] and k[1] == v[1] == 1 and q[0] == 1 and v[3] == 1


def test_attention_over_pages_keeps_one_request_and_its_own_slots(source: Recording) -> None:
    slots = integers([7, 3, 9, 1, 0, 11, 5, 2])
    segments = integers([[0, 1, 2], [1, 2, 3]])
    pool = floats(12, 2, 8)
    given = trial(
        "paged_attention", floats(3, 4, 8), pool, floats(12, 2, 8), slots, segments,
        scale=0.3, window=None, softcap=None,
    )  # fmt: skip
    found = shrunk(given, source, lambda y, *_: y + 1)
    q, k, v, kept, request = shapes(found)
    assert q[0] == 1 and request == (1, 3) and k[0] == v[0] == kept[0] <= 5
    assert int(found.consumed[4].array()[0, 2]) == kept[0] - 1


def test_a_lookup_keeps_the_rows_that_are_looked_up(source: Recording) -> None:
    given = trial("embedding", floats(50, 8), integers([41, 3, 3, 17]))
    found = shrunk(given, source, lambda y, *_: y + 1)
    assert shapes(found) == [(1, 1), (1,)]
    assert found.consumed[1].array().tolist() == [0]


@pytest.mark.parametrize(
    "given",
    [
        trial("add", floats(4, 1, 6), floats(5, 6)),
        trial("matmul", floats(2, 4, 6), floats(2, 6, 5)),
        trial("bmm", floats(3, 4, 6), floats(3, 6, 5)),
        trial("addmm", floats(5), floats(4, 6), floats(6, 5), alpha=1.0, beta=1.0),
        trial("rms_norm", floats(3, 4, 6), floats(6), eps=1e-6),
        trial("gated", floats(4, 12), activation="silu"),
        trial("topk", floats(4, 12), k=3, dim=-1, largest=True),
        trial("cat", floats(4, 6), floats(2, 6), dim=0),
        trial("rotate", floats(5, 4, 8), floats(5, 2), floats(5, 2), interleaved=False),
        trial("rope", floats(2, 5, 8), integers([0, 3, 4, 9, 2]), base=1e4, interleaved=True),
        trial(
            "conv1d", floats(2, 4, 9), floats(6, 4, 3), None,
            stride=1, padding=1, dilation=1, groups=1, causal=False,
        ),
    ],
    ids=lambda t: t.record.op,
)  # fmt: skip
def test_every_cut_is_a_step_that_runs_and_is_within(given: Trial, source: Recording) -> None:
    dims = dims_of(given)
    assert dims
    cuts = [cut(given, dim, 0, dim.size - 1) for dim in dims] + [cut(given, dim, 1, dim.size) for dim in dims]
    found = Trials(Here(backend()), source).run(cuts)
    assert {ran.judgement.verdict for ran in found} == {Verdict.WITHIN}


def test_strides_that_share_elements_are_kept(source: Recording) -> None:
    held = floats(1, 8)
    wide = HostTensor.of(np.repeat(held.array(), 6, axis=0), dtype("f32"))
    record = StepRecord(
        name="step", op="exp", attrs={}, inputs=(ref("x", wide, (0, 1)),), outputs=(ref("y", wide),)
    )
    smaller = cut(Trial.of(record, [wide]), dims_of(Trial.of(record, [wide]))[0], 0, 3)
    assert smaller.record.inputs[0] is not None
    assert (smaller.record.inputs[0].shape, smaller.record.inputs[0].stride) == ((3, 8), (0, 1))


def test_inputs_of_our_own_have_the_scale_and_never_the_values() -> None:
    x = HostTensor.of(floats(40, 30).array() * np.float32(3e-5), dtype("f32"))
    for dist in ("normal", "heavy"):
        mine = drawn(x, dist, key="repro/test")
        assert mine.shape == x.shape and mine.dtype is x.dtype
        ratio = float(np.sqrt(np.mean(mine.array() ** 2)) / np.sqrt(np.mean(x.array() ** 2)))
        assert 0.25 < ratio < 8
        assert not np.isin(mine.array(), x.array()).any()
    again = drawn(x, "normal", key="repro/test")
    assert again.digest() == drawn(x, "normal", key="repro/test").digest()


def test_token_ids_are_drawn_from_the_whole_table_and_places_are_kept() -> None:
    given = trial("embedding", floats(1000, 4), integers([7] * 64))
    _, mine = next(variants(given))
    ids = mine.consumed[1].array()
    assert ids.min() < 100 and ids.max() > 900
    slots = integers([5, 3, 1])
    paged = trial(
        "paged_attention", floats(1, 2, 4), floats(8, 2, 4), floats(8, 2, 4), slots, integers([[0, 1, 2]]),
        scale=0.5, window=None, softcap=None,
    )  # fmt: skip
    _, mine = next(variants(paged))
    assert mine.consumed[3] is slots and mine.consumed[1] is not paged.consumed[1]
