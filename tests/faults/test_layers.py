"""What the layer cases catch: a fault in one step of a case departs there, and nowhere else.

Each family of `cases/layers` is run by torch's CPU kernels, with one step computed wrongly. Later
steps consume what it made and stay within: the fault is named where it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from parity.backend.cpu import CpuBackend
from parity.backend.spec import BackendSpec, Setting
from parity.case.catalog import Catalog
from parity.case.ids import Selector
from parity.judge.judge import judge
from parity.judge.verdict import Verdict
from parity.run.journal import Journal
from parity.run.recorder import record

ROOT = Path(__file__).parents[2]
MOST = 4  # cases that a fault is tried on
LEGAL = (Verdict.WITHIN, Verdict.KNOWN)


def attrs(**changed):
    """The step with other attributes."""
    return lambda step, inputs: (replace(step, attrs={**step.attrs, **changed}), inputs)


def given(position, change):
    """The step on one input that is not the right one."""

    def apply(step, inputs):
        return step, [change(x) if i == position else x for i, x in enumerate(inputs)]

    return apply


def without(position):
    """The step without an optional input."""

    def apply(step, inputs):
        named = tuple(None if i == position else name for i, name in enumerate(step.inputs))
        return replace(step, inputs=named), [None if i == position else x for i, x in enumerate(inputs)]

    return apply


def wider_window(step, inputs):
    return attrs(window=step.attrs["window"] + 1)(step, inputs)


def not_itself(step, inputs):
    """Every request's newest key is hidden: the mask's edge is off by one."""
    *tensors, slots, segments = inputs
    kept, first = [], 0
    for _, length, context in segments.tolist():
        total = context + length
        # One key less before it puts each query at the position before its own.
        kept += slots[first : first + total].roll(1).tolist()
        first += total
    return step, [*tensors, slots.new_tensor(kept), segments]


def swapped_halves(x):
    return torch.cat(x.chunk(2, dim=-1)[::-1], dim=-1)


def one_row_late(x):
    return x.roll(1, 0)


def heads_in_another_order(x):
    """What grouped query heads become where key heads are tiled instead of repeated."""
    return x.flip(1)


def last_row_left(step, inputs):
    pool, slots, rows = inputs
    return step, [pool, slots[:-1], rows[:-1]]


def no_bias(step, inputs):
    return without(2)(step, inputs)


def neighbour(x):
    return (x - 1).clamp(min=0)


def first_slot_twice(slots):
    return torch.cat((slots[:1], slots[:-1]))


def unrotated(_step, inputs):
    return None, inputs[:1]


def canonical(x):
    return torch.where(x.isnan(), torch.nan, x)


def one_expert_for_all(chosen):
    return chosen.roll(1, -1)


def last_block_dropped(w):
    return torch.cat((w[:-8], torch.zeros_like(w[-8:])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A wrong step `site` in cases of `family` whose step there has the attributes of `where`."""

    name: str
    family: str
    site: str
    change: object

    def __str__(self):
        return f"{self.family}-{self.site}-{self.name}"


def fault(name, family, site, change):
    return Fault(name=name, family=family, site=site, change=change)


FAULTS = (
    fault("window is one wider", "attention:window=7,plan=32+17", "attend", wider_window),
    fault("window is one wider", "attention:window=2", "attend", wider_window),
    fault("newest key is another", "attention:window=none,plan=0+17", "attend", not_itself),
    fault("another slot is read", "attention:plan=64+1", "attend", given(3, first_slot_twice)),
    fault("cap is left out", "attention:softcap=2,plan=0+17", "attend", attrs(softcap=None)),
    fault(
        "heads in another order", "attention:heads=gqa3,plan=0+17", "attend", given(0, heads_in_another_order)
    ),
    fault("last row is not stored", "attention", "store_k", last_row_left),
    fault("rows are one late", "attention:plan=0+17", "store_v", given(2, one_row_late)),
    fault("other pairs turn", "attention:rope=interleaved", "rope", attrs(interleaved=False)),
    fault("other pairs turn", "attention:rope=full", "rope", attrs(interleaved=True)),
    fault("turned the other way", "attention:plan=64+1", "rope", given(2, torch.neg)),
    fault("not turned", "attention:plan=32+17", "rope", unrotated),
    fault("bias is left out", "attention:bias=yes", "qkv", no_bias),
    fault("weight has an offset", "attention:norm=yes", "q_norm", attrs(offset=1.0)),
    fault("position is one early", "attention:plan=0+17", "cos", given(1, neighbour)),
    fault("a NaN loses its bits", "pages:dist=bits,dtype=f16", "copy", given(0, canonical)),
    fault("last row is not stored", "pages", "store", last_row_left),
    fault("rows of a neighbour", "pages", "swap_out", given(1, one_row_late)),
    fault("keys made of values", "latent", "attend", given(2, one_row_late)),
    fault("scale of another width", "latent:plan=0+17", "attend", attrs(scale=0.3)),
    fault("shared key does not turn", "latent:plan=0+17", "k_rope", unrotated),
    fault("latents are one late", "latent:plan=0+17", "store_kv", given(2, one_row_late)),
    fault("gate and up are swapped", "mlp", "gated", given(0, swapped_halves)),
    fault("tanh for erf", "mlp:activation=gelu,dtype=f32", "gated", attrs(activation="gelu_pytorch_tanh")),
    fault("silu for gelu", "mlp:activation=gelu_pytorch_tanh", "gated", attrs(activation="silu")),
    fault("offset is left out", "mlp:norms=sandwich", "ffn_post", attrs(offset=0.0)),
    fault("bias is left out", "mlp:bias=yes", "down", no_bias),
    fault("second half skips the first", "mlp", "res2", given(0, torch.zeros_like)),
    fault("bias is left out", "moe:router=sigmoid,tokens=17", "route", no_bias),
    fault("groups do not restrict", "moe:router=groups,ties=no", "route", attrs(groups=1, top_groups=1)),
    fault("weights are not normal", "moe:router=softmax", "route", attrs(normalise=False)),
    fault("scale is left out", "moe:router=weights", "route", attrs(scale=1.0)),
    fault("weights of other experts", "moe:ties=no", "experts", given(2, one_expert_for_all)),
    fault("gate and up are swapped", "moe:shared=yes", "shared.gated", given(0, swapped_halves)),
    fault("row beside the right one", "embed", "embed", given(1, neighbour)),
    fault("scale is left out", "embed:scale=root", "embed", attrs(scale=1.0)),
    fault("last block is not computed", "head", "head", given(1, last_block_dropped)),
    fault("another row", "head:rows=last,tokens=17", "rows.taken", given(1, neighbour)),
    fault("another cap", "head:softcap=3", "head.softcap", attrs(cap=4.0)),
    fault("offset is left out", "norm:way=offset", "norm", attrs(offset=0.0)),
    fault("epsilon of another model", "norm:dist=small", "norm", attrs(eps=1e-4)),
    fault("rows run into each other", "norm:shape=17x33", "norm", given(0, one_row_late)),
    fault("norm instead of the stream", "decoder", "res1", given(0, torch.zeros_like)),
    fault("heads in another order", "trained:layer=0,run=prefill", "rope", given(0, heads_in_another_order)),
    fault("rows are one late", "trained:layer=5,run=prefill", "store_v", given(2, one_row_late)),
)


def site_of(step):
    return re.sub(r"^(s\d+\.)?(L\d+\.)?", "", step.name)


class Wrong(CpuBackend):
    """torch's CPU kernels, one step of which is computed wrongly."""

    def __init__(self, site, change):
        super().__init__(BackendSpec.parse("cpu"), Setting.STRICT)
        self.site, self.change = site, change

    def run(self, step, inputs):
        if site_of(step) != self.site:
            return super().run(step, inputs)
        wrong, given = self.change(step, list(inputs))
        if wrong is None:  # what it should compute is passed on as it is
            wrong = replace(step, op="copy", inputs=step.inputs[:1], attrs={})
        return super().run(wrong, given)


@pytest.fixture(scope="module")
def catalog():
    return Catalog.load([ROOT / "cases" / "layers"])


def reached(catalog, fault):
    cases = catalog.select([Selector.parse(f"layers/{fault.family}")], suite=None)
    named = (case for case in cases if any(site_of(step) == fault.site for step in case.steps))
    return list(islice(named, MOST))


def departing(case, backend):
    judged = judge(case, record(case, backend, journal=Journal()))
    return [site_of(step) for step in judged.steps if step.verdict not in LEGAL]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_fault_departs_at_its_step_and_nowhere_else(catalog, fault):
    cases = reached(catalog, fault)
    assert cases
    for case in cases:
        backend = Wrong(fault.site, fault.change)
        backend.open()
        found = departing(case, backend)
        assert found == [fault.site], case.id


def test_every_family_has_a_fault(catalog):
    assert {f"layers/{f.family.split(':')[0]}" for f in FAULTS} == set(catalog.paths())
