"""Every op's reference in float32, and every rewrite, against the reference in float64 on drawn inputs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import parity.engine.ops.cpu
import parity.engine.ops.inputs
from parity.engine.ops import reference
from parity.engine.ops.op import OPS, Binder, Call
from parity.engine.run.batch import Run, flatten

sys.path.insert(0, str(Path(__file__).parents[1]))
from engine.op_bounds import BOUNDS, U, bound, result, with_dtype

SIZES = (1, 2, 9)
HOST = torch.device("cpu")


def calls(op, size):
    return list(op.inputs(torch.Generator().manual_seed(size), size))


def worst(op, function, call, dtype):
    """The largest share of the bound that a result takes; above 1 is wrong."""
    rounded = with_dtype(call, dtype)
    high = with_dtype(rounded, torch.float64)
    exact = result(op.reference, high)
    made = result(function, rounded)
    share = 0.0
    for ours, theirs, limit in zip(made, exact, bound(op, high, exact, U[dtype]), strict=True):
        assert ours.shape == theirs.shape
        off = (ours.double() - theirs.double()).abs()
        assert not off.isnan().any()
        over = torch.where(off == 0, 0.0, off / limit)
        share = max(share, float(over.max()) if over.numel() else 0.0)
    return share


def functions(op, call):
    """The reference, and each rewrite that applies to what is bound."""
    fitting = [i.function for i in op.implementations if i.when(call.options)]
    return [op.reference, *fitting]


def test_every_op_has_inputs_and_a_bound():
    assert sorted(BOUNDS) == sorted(OPS)
    assert all(calls(op, 3) for op in OPS.values())


def test_every_rewrite_is_reached_by_some_input():
    for op in OPS.values():
        for rewrite in op.implementations:
            # A vendor's kernel may be absent; test_op has a stand-in for it.
            assert rewrite.device != "cpu" or any(rewrite.when(call.options) for call in calls(op, 3)), (
                rewrite.function.__name__
            )


@pytest.mark.parametrize("dtype", U, ids=["f32", "bf16"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", sorted(OPS))
def test_reference_and_rewrites_are_within_the_bound_of_float64(name, size, dtype):
    op = OPS[name]
    if name == "route" and dtype == torch.bfloat16:
        dtype = torch.float32  # which experts are chosen is decided by less than bf16 resolves
    for number, call in enumerate(calls(op, size)):
        for function in functions(op, call):
            assert worst(op, function, call, dtype) <= 1, (number, function.__name__)


FAULTS = {
    "linear": lambda x, *, w, b: x[:, 1:] @ w[:, 1:].T + (0 if b is None else b),
    "rms_norm": lambda x, *, w, eps, offset: (
        x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 10 * eps) * (w + offset)
    ),
    "rotate": lambda x, cos, sin, *, interleaved: reference.rotate.reference(
        x, cos, sin * (1 + 1e-6), interleaved=interleaved
    ),
    "attend": lambda q, *, window, **o: reference.attend.reference(
        q, **o, window=None if window is None else window + 1
    ),
    "gated": lambda x, *, activation: reference.gated.reference(x.half().float(), activation=activation),
    "softcap": lambda x, *, cap: torch.tanh(x / cap) * cap * (1 + 2e-6),
    "store": lambda x, *, pool, batch: pool.index_copy_(0, batch.slots.flip(0), x),
    "embed": lambda tokens, *, w, scale: w[tokens] * (scale + 1e-5),
    "add": lambda x, y: x + y.bfloat16(),
    "add_rms_norm": lambda x, y, **o: (
        x + y,
        reference.rms_norm.reference(x, **o),  # of one addend
    ),
    "latent_attend": lambda q, *, scale, **o: reference.latent_attend.reference(q, scale=scale * 1.01, **o),
    "route": lambda x, *, router, **o: tuple(
        t.flip(-1) if t.dtype == torch.int64 else t for t in reference.route.reference(x, router=router, **o)
    ),
    "experts": lambda x, weights, chosen, **o: reference.experts.reference(x, weights, chosen.flip(-1), **o),
}


@pytest.mark.parametrize("name", sorted(OPS))
def test_a_wrong_op_exceeds_the_bound(name):
    op = OPS[name]
    assert max(worst(op, FAULTS[name], call, torch.float32) for call in calls(op, 9)) > 1


def test_a_product_costs_two_operations_a_term_and_reads_its_weight_once():
    cost = OPS["linear"].cost(torch.zeros(3, 4), w=torch.zeros(5, 4), b=None)
    assert (cost.flops, cost.bytes) == (2 * 3 * 4 * 5, 4 * (3 * 4 + 5 * 4 + 3 * 5))


@pytest.mark.parametrize("window", [None, 3, 150])
@pytest.mark.parametrize("context", [0, 37])
def test_attention_in_several_blocks_of_queries_is_that_of_the_reference(context, window):
    draw = torch.Generator().manual_seed(context)
    length = 2 * parity.engine.ops.cpu._BLOCK + 5
    slots = torch.randperm(context + length, generator=draw).tolist()
    batch = flatten([Run(tokens=[0] * length, context=context, slots=slots)], device=HOST)
    options = {
        "keys": torch.randn(len(slots), 2, 8, generator=draw),
        "values": torch.randn(len(slots), 2, 6, generator=draw),
        "batch": batch,
        "scale": 8**-0.5,
        "window": window,
        "softcap": None,
    }
    call = Call((torch.randn(length, 4, 8, generator=draw),), options)
    assert worst(OPS["attend"], parity.engine.ops.cpu.attend_together, call, torch.float32) <= 1
    assert worst(OPS["attend"], FAULTS["attend"], call, torch.float32) > 1 or window is None


@pytest.mark.parametrize("window,pairs,seen", [(None, 3 + 4 + 5 + 1, 5 + 1), (2, 2 + 2 + 2 + 1, 4 + 1)])
def test_attention_costs_the_pairs_that_are_seen_and_the_slots_that_are_read(window, pairs, seen):
    runs = [Run(tokens=[0] * 3, context=2, slots=range(5)), Run(tokens=[0], context=0, slots=[7])]
    pool = torch.zeros(8, 1, 4)
    cost = OPS["attend"].cost(
        torch.zeros(4, 2, 4),
        batch=flatten(runs, device=HOST),
        keys=pool,
        values=pool,
        window=window,
        scale=1.0,
        softcap=None,
    )
    assert cost.flops == 2 * pairs * 2 * (4 + 4)
    assert cost.bytes == seen * 2 * 4 * 4 + 2 * 4 * 2 * 4 * 4


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_cost_is_counted_on_what_the_op_is_called_with(name):
    for call in calls(OPS[name], 9):
        cost = OPS[name].cost(*call.arguments, **call.options)
        assert cost.bytes > 0
        assert cost.flops > 0 or OPS[name].budget == "exact"


def test_force_takes_the_reference_where_a_rewrite_would_apply():
    call = Call((torch.ones(2, 4),), {"w": torch.ones(4), "eps": 1e-5, "offset": 0.0})
    for force, expected in (
        ((), parity.engine.ops.cpu.rms_norm),
        (("L00.norm",), reference.rms_norm.reference),
    ):
        bound_function = Binder("cpu", force=force).bind("L00.norm", "rms_norm", **call.options)
        assert bound_function.func is expected
