"""The builder of decoder layers, as data; `test_decoder_engine.py` holds it against the engine."""

from __future__ import annotations

import pytest

from parity.case.case import Case, Role
from parity.case.decoder import (
    Checkpoint,
    Dense,
    Draft,
    Experts,
    Heads,
    Latent,
    Layer,
    attention,
    feed_forward,
)
from parity.case.ids import CaseId
from parity.case.inputs import generate
from parity.errors import UsageError

HEADS = Heads(heads=4, kv_heads=2, dim=8)


def layer(**changed):
    return Layer(**{"hidden": 16, "attention": HEADS, "feed_forward": Dense(width=24), **changed})


def drafted(layer, plan="3+1.0+4", **options):
    draft = Draft(dtype="bf16", layer="L00.", **options)
    draft.begin(plan)
    x = draft.input("x", "bf16", (draft.tokens, layer.hidden), "normal")
    feed_forward(draft, attention(draft, x, layer), layer)
    return draft


def built(draft):
    made = draft.parts()
    return Case(id=CaseId.parse("layers/x"), inputs=made.inputs, steps=made.steps)


def lines(steps):
    return [f"{step.name} = {step.op}({', '.join(map(str, step.inputs))})" for step in steps]


def test_a_layer_reads_like_the_network():
    assert lines(drafted(layer()).steps) == [
        "L00.norm1 = weighted_rms_norm(x, L00.norm1.weight)",
        "L00.qkv = linear(L00.norm1, L00.qkv.weight, None)",
        "L00.qkv.heads = reshape(L00.qkv)",
        "L00.qkv.q = slice(L00.qkv.heads)",
        "L00.qkv.k = slice(L00.qkv.heads)",
        "L00.qkv.v = slice(L00.qkv.heads)",
        "L00.rope.qk = cat(L00.qkv.q, L00.qkv.k)",
        "cos = index(cos.table, positions)",
        "sin = index(sin.table, positions)",
        "L00.rope = rotate(L00.rope.qk, cos, sin)",
        "L00.rope.q = slice(L00.rope)",
        "L00.rope.k = slice(L00.rope)",
        "L00.store_k = index_put(L00.store_k.pool, new_slots, L00.rope.k)",
        "L00.store_v = index_put(L00.store_v.pool, new_slots, L00.qkv.v)",
        "L00.attend = paged_attention(L00.rope.q, L00.store_k, L00.store_v, slots, segments)",
        "L00.attend.flat = reshape(L00.attend)",
        "L00.out = linear(L00.attend.flat, L00.out.weight, None)",
        "L00.res1 = add(x, L00.out)",
        "L00.norm2 = weighted_rms_norm(L00.res1, L00.norm2.weight)",
        "L00.gate_up = linear(L00.norm2, L00.gate_up.weight, None)",
        "L00.gated = gated(L00.gate_up)",
        "L00.down = linear(L00.gated, L00.down.weight, None)",
        "L00.res2 = add(L00.res1, L00.down)",
    ]


def test_weights_have_their_role_and_the_pool_is_an_input():
    roles = {spec.name: spec.role for spec in drafted(layer()).parts().inputs}
    assert roles["L00.qkv.weight"] is roles["L00.norm1.weight"] is Role.WEIGHT
    assert roles["L00.store_k.pool"] is roles["slots"] is roles["cos.table"] is Role.INPUT


@pytest.mark.parametrize("half", ["attention", "feed_forward"])
def test_a_sandwich_norms_each_half_before_its_sum(half):
    names = [step.name for step in drafted(layer(sandwich=True, offset=1.0)).steps]
    norm, total = {"attention": ("attn_post", "res1"), "feed_forward": ("ffn_post", "res2")}[half]
    assert names.index(f"L00.{norm}") == names.index(f"L00.{total}") - 1


def test_a_norm_rounds_before_its_weight_only_where_that_has_no_offset():
    for offset, first in ((0.0, True), (1.0, False)):
        steps = drafted(layer(offset=offset)).steps
        norms = [step.attrs for step in steps if step.op == "weighted_rms_norm"]
        assert all((a["offset"], a["rounds_first"]) == (offset, first) for a in norms)


def test_partial_rotation_has_tables_of_half_the_rotated_dimensions():
    heads = Heads(heads=4, kv_heads=2, dim=8, rotated=4)
    tables = [s for s in drafted(layer(attention=heads)).parts().inputs if s.dist == "angles"]
    assert [spec.shape for spec in tables] == [(5, 2), (5, 2)]


def test_latent_attention_stores_one_row_a_token():
    heads = Latent(heads=2, latent=8, nope=6, rope=4, value=5, absorbed=True)
    case = built(drafted(layer(attention=heads)))
    shapes = {spec.name: spec.shape for spec in case.inputs}
    assert shapes["L00.store_kv.pool"] == (8 + 5, 12)
    assert shapes["L00.kv_b.weight"] == (2 * (6 + 5), 8)
    attend = next(step for step in case.steps if step.name == "L00.attend")
    assert dict(attend.attrs) == {"nope": 6, "scale": 10**-0.5, "absorbed": True}


@pytest.mark.parametrize("bias", [False, True])
def test_twin_experts_have_one_router_row_and_one_bias(bias):
    some = Experts(experts=6, top=3, width=8, twins=True, bias=bias, scores="sigmoid")
    made = generate(built(drafted(layer(feed_forward=some))))
    for name in ("L00.router.weight", "L00.router.bias")[: 1 + bias]:
        rows = made[name].array()
        assert (rows[0::2] == rows[1::2]).all() and (rows[0] != rows[2]).any()


def test_a_second_pass_shares_weights_and_goes_on_with_the_stored_keys():
    draft = Draft(dtype="f32", layer="L00.", slots=8)
    for run, plan in enumerate(("0+4", "4+1")):
        draft.begin(plan, run=f"s{run}.")
        x = draft.input(f"{draft.run}x", "f32", (draft.tokens, 16), "normal")
        attention(draft, x, layer())
    case = built(draft)
    names = [spec.name for spec in case.inputs]
    assert names.count("L00.qkv.weight") == 1 and names.count("L00.store_k.pool") == 1
    store = next(step for step in case.steps if step.name == "s1.L00.store_k")
    assert store.inputs == ("s0.L00.store_k", "s1.new_slots", "s1.L00.rope.k")
    made = generate(case)
    assert made["s1.slots"].array().tolist()[:4] == made["s0.new_slots"].array().tolist()


def test_weights_of_a_checkpoint_have_its_names_and_its_type():
    names = {f"L00.{site}.weight": f"model.{site}" for site in ("norm2", "gate_up", "down")}
    source = Checkpoint(file="m.safetensors", digest="sha256:0", stored="bf16", names=names)
    for of in ("bf16", "f32"):
        draft = Draft(dtype=of, layer="L00.", checkpoint=source)
        draft.begin("0+2")
        feed_forward(draft, draft.input("x", of, (2, 16), "normal"), layer())
        options = dict(draft.tensors["L00.down.weight"].options)
        stored = {} if of == "bf16" else {"stored": "bf16"}
        assert options == {"file": "m.safetensors", "digest": "sha256:0", "tensor": "model.down", **stored}


def test_a_name_that_would_mean_two_tensors_is_refused():
    draft = Draft(dtype="f32")
    draft.input("x", "f32", (2, 3), "normal")
    with pytest.raises(UsageError, match=r"^tensor 'x' is declared twice, and not the same$"):
        draft.input("x", "f32", (2, 4), "normal")


def test_a_plan_that_outgrows_the_pool_is_refused():
    draft = Draft(dtype="f32", layer="L00.", slots=4)
    draft.begin("0+5")
    attention(draft, draft.input("x", "f32", (5, 16), "normal"), layer())
    with pytest.raises(UsageError, match=r"^plan '0\+5' needs 5 slots, there are 4$"):
        generate(built(draft))
