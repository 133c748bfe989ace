from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from parity.backend.torch_ops import TORCH_OPS
from parity.case.op import OPS
from parity.selftest.arithmetic import LEGITIMATE, Arithmetic, contracted, nearest, prefix, total
from parity.selftest.problem import cases, inputs_of, problems
from parity.selftest.suite import KERNELS, Kind, classes, right, trials
from parity.selftest.table import UNLISTED

SEED = 1
CASES = cases()


def _is_empty(case):
    return case.steps[-1].name == "use_empty"


def of_family(path, **params):
    """Cases of a family that hold no special values, of some size."""
    found = []
    for case in CASES:
        given = dict(case.id.params)
        asked = case.id.path == path and params.items() <= given.items()
        if asked and given.get("dist") != "special" and case.nbytes > 256 and not _is_empty(case):
            found.append(case)
    assert found, path
    return found


def test_every_op_has_a_kernel():
    assert set(OPS) <= set(KERNELS)


def test_every_kernel_has_faults_of_its_own_and_classes_that_no_list_names():
    assert all(len(names) > 20 for names in classes().values())
    assert set(UNLISTED) <= set().union(*classes().values())


def test_another_seed_gives_other_inputs_and_the_same_seed_the_same():
    case = of_family("ops/matmul")[0]
    first, again, other = (inputs_of(case, seed=seed)["a"].digest() for seed in (1, 1, 2))
    assert first == again != other


def test_a_small_run_has_no_false_alarm():
    alarms, seen = [], 0
    for case in CASES[::43]:
        for trial in trials(case, seed=SEED, judged_only=True):
            if trial.kind is Kind.LEGITIMATE:
                seen += 1
                alarms += [] if trial.accepted["derived"] else [(trial.name, trial.case)]
    assert seen > 100
    assert alarms == []


FLAGRANT = [
    ("ops/matmul", "dropped_k_tile"),
    ("ops/matmul", "accumulate_bf16"),
    ("ops/matmul", "swapped_tiles"),
    ("ops/bmm", "previous_batch"),
    ("ops/linear", "bias_twice"),
    ("ops/addmm", "alpha_ignored"),
    ("ops/conv1d", "taps_reversed"),
    ("ops/conv1d", "shifted_by_one"),
    ("ops/conv2d", "channels_last_read_as_first"),
    ("ops/conv2d", "accumulate_bf16"),
    ("ops/add", "as_32_bits"),
    ("ops/mul", "operands_flushed"),
    ("ops/div", "by_reciprocal"),
    ("ops/erf", "absolute_error"),
    ("ops/rsqrt", "estimate"),
    ("ops/index", "negative_clamped"),
    ("ops/matmul_f64", "as_32_bits"),
    ("ops/order_i64", "low_32_bits"),
    ("ops/cast_wide", "through_float"),
    ("ops/sum", "dropped_tile"),
    ("ops/mean", "padding_counted"),
    ("ops/cumsum", "exclusive"),
    ("ops/softmax", "base_2"),
    ("ops/log_softmax", "base_2_logarithm"),
    ("ops/logsumexp", "tail_twice"),
    ("ops/rms_norm", "mean_subtracted"),
    ("ops/layer_norm", "mean_not_subtracted"),
    ("ops/gelu_erf", "quick"),
    ("ops/silu", "relu"),
    ("ops/swiglu", "gate_and_up_swapped"),
    ("ops/attention", "last_key_dropped"),
    ("ops/attention", "groups_tiled"),
    ("ops/attention", "heads_transposed"),
    ("ops/rope", "other_pairs"),
    ("ops/embedding", "index_off_by_one"),
    ("ops/gather", "read_as_dense"),
    ("ops/where", "inverted"),
    ("ops/cat", "order_reversed"),
    ("ops/slice_assign", "written_to_copy"),
    ("ops/tril", "diagonal_one_more"),
    ("ops/index_put", "values_of_next"),
    ("ops/scatter_add", "overwritten"),
    ("ops/topk", "index_plus_1"),
    ("ops/sort", "two_not_in_order"),
    ("ops/argmax", "index_plus_1"),
    ("ops/cast_narrow", "truncated"),
    ("ops/cast_to_fp8", "ties_away"),
    ("ops/int8_linear", "sum_wraps_at_16_bits"),
    ("ops/int4_weight_linear", "nibbles_swapped"),
    ("ops/int8_weight_linear", "zero_point_1"),
    ("ops/scaled_mm", "x_in_other_flavour"),
    ("ops/scaled_mm", "scale_twice"),
    ("ops/scaled_mm", "accumulate_f16"),
    ("ops/fp8_forms", "operands_not_rounded"),
    ("ops/block_scaled_mm", "block_rows_by_column"),
    ("ops/block_scaled_mm", "tail_block_of_first"),
    ("ops/mx_scaled_mm", "bias_off_by_one"),
    ("ops/mx_scaled_mm", "nan_scale_as_number"),
    ("ops/grouped_mm", "end_one_more"),
    ("ops/grouped_mm", "empty_group_skipped"),
    ("ops/routed_mm", "next_expert"),
    ("ops/attention_split", "maxima_not_merged"),
    ("ops/attention_split", "part_dropped"),
    ("ops/attention_split", "hidden_part_nan"),
    ("ops/copy", "storage_in_order"),
    ("ops/reshape", "storage_in_order"),
    ("ops/weighted_rms_norm", "gain_of_next_channel"),
    ("ops/weighted_rms_norm", "rounded_first"),
    ("ops/rotate", "other_pairs"),
    ("ops/gated", "gate_and_up_swapped"),
    ("ops/gated", "stored_to_zero"),
    ("ops/softcap", "clamped"),
    ("ops/scaled_embedding", "scale_in_f32"),
    ("ops/paged_attention", "slots_in_order"),
    ("ops/paged_attention", "causal_from_chunk"),
    ("ops/latent_attention", "shared_key_omitted"),
    ("ops/route", "bias_weighed"),
    ("ops/experts", "weights_of_next_row"),
    ("ops/take_along_dim", "negative_clamped"),
    ("ops/index_select", "index_off_by_one"),
    ("ops/scatter", "src_read_as_dense"),
    ("ops/scatter_reduce", "own_the_other_way"),
    ("ops/masked_fill", "by_arithmetic"),
    ("ops/masked_select", "by_columns"),
    ("ops/nonzero", "by_columns"),
    ("ops/unique", "nan_once"),
    ("ops/bincount", "cut_at_minlength"),
    ("ops/searchsorted", "other_side"),
    ("ops/roll", "other_direction"),
    ("ops/flip", "one_dimension"),
    ("ops/stack", "order_reversed"),
    ("ops/split", "from_start"),
    ("ops/pad", "before_and_after_swapped"),
    ("ops/repeat", "each_element"),
    ("ops/expand", "as_dense"),
    ("ops/as_strided", "dense"),
    ("ops/slice_move", "by_lanes"),
    ("ops/negate_view", "written_to_copy"),
    ("ops/far_rows", "wraps"),
    ("ops/aliased", "stale_row"),
    ("ops/top_p_mask", "crossing_dropped"),
    ("ops/top_p_mask", "sums_in_bf16"),
    ("ops/penalties", "padding_counted"),
    ("ops/add_rms_norm", "residual_not_normalised"),
    ("ops/add_rms_norm", "sum_stale"),
    ("ops/add_rms_norm", "sum_in_bf16"),
    ("ops/add_rms_norm", "eps_outside_root"),
    ("ops/norm_rotate", "weight_of_q_for_both"),
    ("ops/norm_rotate", "halves_swapped"),
    ("ops/norm_rotate", "rotated_first"),
    ("ops/norm_rotate", "v_of_next_group"),
    ("ops/hstu_attention", "sigmoid"),
    ("ops/hstu_attention", "relu"),
    ("ops/hstu_attention", "not_divided"),
    ("ops/hstu_attention", "causal_one_more"),
    ("ops/hstu_attention", "causal_one_less_in_last_tile"),
]


# What a case must have for a fault to be one.
NEEDS = {
    "ops/take_along_dim": {"index": "negative", "where": "last"},
    "ops/scatter": {"where": "smaller"},
    "ops/masked_fill": {"dtype": "f32", "value": "-inf"},
    "ops/masked_select": {"probability": "0.5", "shape": "33x65.33x65"},
    "ops/unique": {"dist": "ties_nan", "shape": "257"},
    "ops/bincount": {"shape": "1000", "numbers": "129", "minlength": "7"},
    "ops/searchsorted": {"sequence": "ties"},
    "ops/flip": {"dims": "0_-1", "shape": "17x33"},
    "ops/slice_move": {"move": "right"},
    "ops/top_p_mask": {"shape": "17x257", "threshold": "0.9"},
    "ops/penalties": {"rule": "all"},
    "ops/add_rms_norm": {"dtype": "f32", "dist": "small"},
    "ops/norm_rotate": {"shape": "17x4x2x64"},
    "ops/hstu_attention": {"shape": "33x2x64x32"},
    "ops/expand": {"shape": "3x1x16.3x7x16"},
    "ops/nonzero": {"shape": "33x65", "dist": "some"},
    "ops/as_strided": {"view": "windows"},
    "ops/repeat": {"repeats": "3x1x2"},
    "ops/add": {"dtype": "i64"},
    "ops/conv1d": {"groups": "depthwise", "padding": "causal", "shape": "3x16x17.16x4"},
    "ops/div": {"dtype": "f32", "dist": "normal"},
    "ops/erf": {"dtype": "f32"},
    "ops/index": {"index": "negative"},
    "ops/order_i64": {"dist": "bits"},
    "ops/mul": {"dtype": "f32", "dist": "subnormal"},
    "ops/rsqrt": {"dtype": "f32", "dist": "positive"},
    "ops/attention": {"shape": "2x4x2x33x33x32"},
    "ops/cast_to_fp8": {"dist": "boundaries"},
    "ops/gather": {"shape": "3x17x31"},
    "ops/linear": {"bias": "yes"},
    "ops/copy": {"layout": "transposed"},
    "ops/reshape": {"layout": "transposed"},
    "ops/weighted_rms_norm": {"dtype": "bf16", "rounds": "last"},
    "ops/gated": {"dtype": "bf16", "shape": "33x128"},
    "ops/scaled_embedding": {"dtype": "bf16", "scale": "4.9"},
    "ops/softcap": {"dist": "heavy"},
    "ops/paged_attention": {"plan": "5+12"},
    "ops/route": {"rule": "deepseek_v3"},
    "ops/where": {"shape": "33x129.33x129.33x129"},
    "ops/fp8_forms": {"out": "bf16"},
    "ops/block_scaled_mm": {"shape": "17x256x160"},
    "ops/mx_scaled_mm": {"scales": "nan"},
    "ops/grouped_mm": {"empty": "middle"},
    "ops/attention_split": {"along": "keys", "dtype": "f32"},
}


@pytest.mark.parametrize("path, fault", FLAGRANT)
def test_a_flagrant_fault_is_caught(path, fault):
    found = [t for case in of_family(path, **NEEDS.get(path, {}))[:3] for t in _named(case, fault)]
    real = [t for t in found if t.kind is Kind.REAL]
    assert real
    assert [t.case for t in real if t.accepted["derived"]] == []


def _named(case, fault):
    return (t for t in trials(case, seed=SEED, judged_only=True) if t.name == fault)


def test_a_fault_that_changes_nothing_is_dropped():
    case = of_family("ops/matmul", dtype="bf16")[0]
    kinds = {t.name: t.kind for t in trials(case, seed=SEED, judged_only=True)}
    assert kinds["bf16_inputs"] is Kind.DROPPED
    assert kinds["dropped_k_tail"] is Kind.REAL


def test_a_fault_below_the_rounding_of_the_result_is_hidden():
    case = of_family("ops/linear", dtype="bf16", dist="positive")[0]
    kinds = {t.kind for t in trials(case, seed=SEED, judged_only=True) if t.name == "scaled_0.999"}
    assert kinds == {Kind.HIDDEN}


def test_ties_taken_in_another_order_are_no_fault():
    case = of_family("ops/topk", dist="ties")[0]
    found = [t for t in trials(case, seed=SEED) if t.kind is Kind.LEGITIMATE]
    assert {t.name for t in found} == {"plain", "last"}
    assert all(t.accepted["derived"] for t in found)
    assert not all(t.accepted["assert_close"] for t in found)


def test_the_stale_problem_is_another_seed_of_the_same_step():
    case = of_family("ops/softmax")[0]
    (problem,) = problems(case, right, seed=SEED)
    assert problem.stale.attrs == problem.attrs
    assert problem.stale.inputs[0].digest() != problem.inputs[0].digest()


@pytest.mark.parametrize("how", LEGITIMATE, ids=lambda how: how.name)
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 100])
def test_every_legitimate_order_adds_all_terms(how, n, torch):
    terms = torch.arange(1, n + 1, dtype=torch.float32).repeat(3, 1)
    assert total(terms, how).tolist() == [n * (n + 1) / 2] * 3
    assert prefix(terms, how)[0].tolist() == np.cumsum(np.arange(1, n + 1)).tolist()
    b = torch.ones(n, 2)
    assert contracted(terms, b, how).tolist() == [[n * (n + 1) / 2] * 2] * 3


def test_a_kept_accumulator_loses_what_does_not_fit(torch):
    ones = torch.ones(1, 1000)
    assert float(total(ones, Arithmetic(name="low", keep="bf16"))) == 256
    assert float(total(ones, Arithmetic(name="low", keep="f16"))) == 1000


@pytest.mark.parametrize(
    "name, x, rounded",
    [
        ("bf16", 1 + 2**-8, 1.0),
        ("f16", 65520.0, np.inf),
        ("tf32", 1 + 3 * 2**-11, 1 + 2**-9),
        ("bits14", 1 - 2**-15, 1 - 2**-14),
    ],
)
def test_roundings_are_those_of_their_formats(torch, name, x, rounded):
    assert float(nearest(torch.tensor([x]), name)) == rounded


def test_functions_off_by_a_last_place_meet_their_exact_points(torch):
    high = dataclasses.replace(LEGITIMATE[0], ulps=1)
    y = torch.tensor([0.0, 1.0, -1.0, torch.inf, 0.5])
    assert high.off(y).tolist()[:4] == y.tolist()[:4]
    assert float(high.off(y)[4]) > 0.5


@pytest.fixture
def torch():
    import torch

    return torch


def test_what_torch_refuses_is_judged_all_the_same(torch):
    (case,) = (c for c in CASES if "slice_move:cloned=no" in str(c.id) and "rows_down" in str(c.id))
    (problem,) = problems(case, right, seed=SEED)
    with pytest.raises(RuntimeError, match="single memory location"):
        TORCH_OPS["slice_move"](torch.from_numpy(problem.inputs[0].array().copy()), **problem.attrs)
    found = list(trials(case, seed=SEED))
    assert all(trial.accepted["derived"] for trial in found if trial.kind is Kind.LEGITIMATE)
    assert any(trial.kind is Kind.REAL and not trial.accepted["derived"] for trial in found)
