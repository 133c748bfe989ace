from __future__ import annotations

import pytest

from parity.backend.base import Node, Witness
from parity.case.dtype import DTYPES
from parity.case.op import OPS
from parity.judge.verdict import Verdict
from parity.judge.witness import examine


def node(precision, kind="mm", device="npu"):
    return Node(kind=kind, device=device, precision=precision)


def asked(*ran, op="matmul", dtypes=("bf16", "bf16"), host=()):
    witness = Witness(executed=tuple(node(p) for p in ran), host=host)
    return examine(witness, OPS[op], [DTYPES[name] for name in dtypes])


def test_a_node_at_the_asked_precision_is_within():
    assert asked("bf16") == (Verdict.WITHIN, "")


def test_no_witness_proves_nothing():
    verdict, why = examine(None, OPS["matmul"], [DTYPES["f32"]])
    assert (verdict, why) == (Verdict.UNJUDGED, "the backend gave no witness of what ran")


def test_a_witness_of_no_node_is_a_fallback():
    assert asked() == (Verdict.FELL_BACK, "nothing was executed on the target")


def test_a_node_on_the_host_is_a_fallback_though_others_ran_on_the_target():
    verdict, why = asked("bf16", host=(node("bf16", kind="aten::topk", device="cpu"),))
    assert (verdict, why) == (Verdict.FELL_BACK, "aten::topk ran on cpu, not on the target")


def test_a_backend_that_does_not_say_the_precision_leaves_the_step_unjudged():
    verdict, why = asked("bf16", "?")
    assert (verdict, why) == (Verdict.UNJUDGED, "the backend does not say at which precision mm ran")


@pytest.mark.parametrize(
    "ran, dtypes", [("f16", ("f32", "f32")), ("bf16", ("f32", "f32")), ("bf16", ("f16",))]
)
def test_a_narrower_node_is_a_substitution(ran, dtypes):
    verdict, why = asked(ran, dtypes=dtypes)
    assert (verdict, why) == (Verdict.SUBSTITUTED, f"asked for {dtypes[0]}; mm ran at {ran}")


def test_a_narrower_node_beside_right_ones_is_a_substitution():
    assert asked("f32", "bf16", dtypes=("f32",))[0] is Verdict.SUBSTITUTED


def test_a_smaller_range_is_a_substitution_though_its_steps_are_finer():
    assert asked("f16", dtypes=("bf16", "bf16"))[0] is Verdict.SUBSTITUTED


def test_wider_intermediates_beside_a_node_at_the_asked_precision_are_the_ops_own():
    assert asked("f32", "bf16") == (Verdict.WITHIN, "")


def test_an_op_that_ran_wider_throughout_is_a_substitution():
    assert asked("f64", dtypes=("bf16",))[0] is Verdict.SUBSTITUTED


def test_an_op_whose_formula_computes_in_float32_may_run_in_float32():
    assert asked("f32", op="rope") == (Verdict.WITHIN, "")


def test_an_exact_op_is_proved_by_its_bits_whatever_carried_them():
    assert asked("f32", op="embedding")[0] is Verdict.WITHIN


def test_mixed_types_allow_each_of_those_asked():
    assert asked("f32", "bf16", dtypes=("bf16", "f32"))[0] is Verdict.WITHIN


def test_integers_in_a_narrower_type_throughout_are_a_substitution():
    assert asked("i32", op="gather", dtypes=("i64", "i64"))[0] is Verdict.SUBSTITUTED
    assert asked("i32", "i64", op="gather", dtypes=("i64", "i64"))[0] is Verdict.WITHIN


def test_many_nodes_are_named_in_part():
    kinds = tuple(node("f32", kind=f"k{i}", device="cpu") for i in range(5))
    assert asked("f32", host=kinds)[1] == "k0, k1, k2 and 2 more ran on cpu, not on the target"
