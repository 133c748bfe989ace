"""The built-in case files: what they hold, and that every input is valid for its op."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from parity.backend.profile import Accumulator, Profile
from parity.case.catalog import LARGE_BYTES, SMOKE_ROWS, Catalog, builtin_cases
from parity.case.dtype import DTYPES
from parity.case.ids import Selector
from parity.case.inputs import generate
from parity.case.op import OPS
from parity.judge.oracle import answers

TESTS = {
    "matmul", "matmul_broadcast", "matmul_f64", "bmm", "linear", "addmm", "conv1d", "conv2d",
    "sum", "mean", "cumsum", "logsumexp", "softmax", "log_softmax", "rms_norm", "layer_norm",
    "gelu_erf", "gelu_tanh", "silu", "swiglu", "exp", "sigmoid", "tanh", "erf", "rsqrt",
    "add", "mul", "div",
    "attention", "attention_mask", "attention_decode", "rope",
    "embedding", "gather", "index", "index_put", "scatter_add", "where", "cat",
    "slice", "slice_assign", "tril", "triu", "triu_indices", "topk", "argmax", "sort", "order_i64",
    "cast", "cast_wide", "cast_from_fp8", "cast_to_fp8", "cast_narrow",
    "int8_linear", "int8_weight_linear", "int4_weight_linear",
    "scaled_mm", "fp8_forms", "block_scaled_mm", "mx_scaled_mm", "grouped_mm", "routed_mm", "attention_split",
    "copy", "reshape", "weighted_rms_norm", "rotate", "gated", "softcap", "scaled_embedding",
    "paged_attention", "latent_attention", "route", "experts",
    "take_along_dim", "index_select", "scatter", "scatter_reduce", "masked_fill", "masked_select", "nonzero",
    "unique", "bincount", "searchsorted", "roll", "flip", "stack", "split", "pad", "repeat", "expand",
    "as_strided", "slice_move", "negate_view", "far_rows", "far_rows_2gib", "aliased",
    "top_p_mask", "penalties",
    "add_rms_norm", "norm_rotate", "hstu_attention",
    "sqrt", "reciprocal", "relu_squared", "softplus", "expm1", "log", "log1p", "sin", "cos", "pow",
    "pow_scalar", "sub", "floor_divide", "trunc_divide", "remainder", "var", "norm", "group_norm",
    "cumprod", "amax", "amin", "max", "min", "argsort", "arange", "linspace", "one_hot", "tril_indices",
    "meshgrid", "rope_partial",
}  # fmt: skip

LAYERS = {"attention", "pages", "latent", "mlp", "moe", "decoder", "trained", "embed", "head", "norm"}


@pytest.fixture(scope="module")
def catalog():
    return Catalog.load([builtin_cases()])


@pytest.fixture(scope="module")
def ops(catalog):
    return catalog.select([], suite="ops")


@pytest.fixture(scope="module")
def layers(catalog):
    return catalog.select([], suite="layers")


def parameter_values(cases):
    return {(case.id.path, item) for case in cases for item in case.id.params}


def part(catalog, suite, *, of):
    """The cases of a derived suite that are of another one as well."""
    return [case for case in catalog.select([], suite=suite) if case.id.path.startswith(f"{of}/")]


def test_every_op_of_the_table_has_cases(ops, layers):
    assert {step.op for case in (*ops, *layers) for step in case.steps} == set(OPS)


def test_every_family_is_there(catalog):
    assert {path for path in catalog.paths() if path.startswith("ops/")} == {f"ops/{test}" for test in TESTS}
    assert {path for path in catalog.paths() if path.startswith("layers/")} == {f"layers/{x}" for x in LAYERS}


def test_the_suites_have_their_sizes(catalog, ops):
    assert 1800 <= len(ops) <= 3900
    assert 120 <= len(part(catalog, "smoke", of="ops")) <= 280
    assert 280 <= len(part(catalog, "sample", of="ops")) <= 900
    assert 60 <= len(catalog.select([], suite="layers")) <= 160
    assert len(part(catalog, "smoke", of="layers")) == SMOKE_ROWS * len(LAYERS)
    assert len(part(catalog, "sample", of="layers")) <= 60


def test_no_family_is_more_than_a_tenth_of_the_suite(ops):
    assert max(Counter(case.id.path for case in ops).values()) <= len(ops) / 10


def test_sample_holds_every_value_of_every_family_and_smoke_every_family(catalog):
    sample, smoke = catalog.select([], suite="sample"), catalog.select([], suite="smoke")
    every = [case for case in catalog.select([], suite=None) if not case.nbytes > LARGE_BYTES]
    assert parameter_values(sample) == parameter_values(every)
    assert {case.id.path for case in smoke} == {case.id.path for case in every}
    assert {str(case.id) for case in smoke} <= {str(case.id) for case in sample}


def test_a_sample_without_its_last_row_would_miss_a_value(catalog, ops):
    sample = catalog.select([], suite="sample")
    assert any(parameter_values(sample[:i] + sample[i + 1 :]) != parameter_values(ops) for i in range(9))


def test_the_inputs_of_a_case_are_small(ops):
    assert max(case.nbytes for case in ops) < 5 << 20


def test_the_smoke_suite_reads_few_bytes(catalog):
    assert sum(case.nbytes for case in catalog.select([], suite="smoke")) < 24 << 20


def test_every_id_can_be_fetched_and_has_a_source(catalog):
    for case in catalog.ids():
        assert ":" in catalog.get(case).source


def test_revisions_tell_all_cases_apart(ops):
    assert len({case.revision for case in ops}) == len(ops)


# Ops whose result is of a shape that stands in none of their inputs.
DEPENDENT = {
    *("as_strided", "bincount", "expand", "index_select", "masked_select", "nonzero", "pad", "repeat"),
    *("split", "stack", "take_along_dim", "unique"),
}
PROFILE = Profile(accumulator=Accumulator(dtype=DTYPES["f32"]))


def result_shape(case):
    """The shape of the first step's first output, where an input or an attribute says it may be empty."""
    step, shapes = case.steps[0], {spec.name: spec.shape for spec in case.inputs}
    first, *more = [shapes[name] for name in step.tensors()] or [()]
    match step.op:
        case "matmul" | "bmm":
            return np.matmul(np.zeros(first), np.zeros(more[0])).shape
        case "addmm":
            return (more[0][0], more[1][1])
        case "linear" | "int8_linear" | "int8_weight_linear" | "int4_weight_linear":
            return (*first[:-1], more[0][0])
        case "scaled_mm" | "block_scaled_mm":
            return (first[0], more[0][0])
        case "grouped_mm":
            return (first[0], more[0][2])
        case "routed_mm":
            return (*more[0], more[1][1])
        case "sum" | "mean" | "logsumexp" | "norm" | "var" | "amax" | "amin" | "max" | "min":
            return np.zeros(first).sum(step.attrs["dim"], keepdims=step.attrs["keepdim"]).shape
        case "argmax":
            return np.zeros(first).sum(step.attrs["dim"], keepdims=step.attrs["keepdim"]).shape
        case "embedding" | "scaled_embedding":
            return (*more[0], first[1])
        case "gather":
            return more[0]
        case "index":
            return (*more[0], *first[1:])
        case "add" | "mul" | "div" | "where" | "sub" | "floor_divide" | "trunc_divide" | "remainder" | "pow":
            return np.broadcast_shapes(first, *more)
        case "cat":
            return np.concatenate([np.zeros(shape) for shape in (first, *more)], step.attrs["dim"]).shape
        case "slice":
            return (0,) if "2:2" in step.attrs["index"] else (1,)
        case "topk":
            return (step.attrs["k"],)
        case op if op in DEPENDENT:
            # What its values decide, the oracle knows.
            made = generate(case)
            given = tuple(made[name] for name in step.tensors())
            return next(iter(answers(op, given, step.attrs, PROFILE))).expected[0].shape
        case "arange":
            return np.arange(step.attrs["start"], step.attrs["end"], step.attrs["step"]).shape
        case "linspace":
            return (step.attrs["steps"],)
        case "one_hot":
            return (*first, step.attrs["classes"])
        case "meshgrid":
            return (*first, *more[0]) if step.attrs["indexing"] == "ij" else (*more[0], *first)
        case "tril_indices":
            return np.stack(
                np.tril_indices(step.attrs["rows"], step.attrs["offset"], step.attrs["columns"])
            ).shape
        case "triu_indices":
            return np.stack(
                np.triu_indices(step.attrs["rows"], step.attrs["offset"], step.attrs["columns"])
            ).shape
        case _:
            return first


# Families whose cases make a mask first, or compute one thing in two ways on the same inputs.
SEVERAL = {"ops/attention_mask", "ops/attention_split", "ops/fp8_forms"}


def without_evidence(cases):
    """Cases whose every result is empty: nothing could be compared, and none could be within."""
    return [str(case.id) for case in cases if 0 in result_shape(case) and len(case.steps) == 1]


def test_every_case_with_an_empty_result_uses_it_in_a_second_step(ops):
    assert without_evidence(ops) == []
    assert sum(0 in result_shape(case) for case in ops) > 50


def test_a_case_with_an_empty_result_and_no_second_step_is_found(ops):
    empty = next(case for case in ops if case.steps[-1].name == "use_empty")
    assert without_evidence([replace(empty, steps=empty.steps[:1])]) == [str(empty.id)]


def test_a_second_step_is_there_only_for_an_empty_result_a_mask_or_another_form_of_the_first(ops):
    for case in ops:
        if len(case.steps) > 1 and case.id.path not in SEVERAL:
            assert 0 in result_shape(case), case.id


def index_faults(case):
    """Index inputs of a case that point outside what they index, where that is an input too."""
    made = generate(case)
    arrays = {name: tensor.array() for name, tensor in made.items()}
    faults = []
    for step in case.steps:
        held = [arrays.get(name) for name in step.inputs[:2]]
        if any(array is None for array in held):
            continue
        match step.op:
            case "embedding" | "scaled_embedding":
                low, high = 0, held[0].shape[0]
            case "index" | "index_put":
                low, high = -held[0].shape[0], held[0].shape[0]
            case "gather" | "scatter_add" | "index_select" | "scatter" | "scatter_reduce":
                low, high = 0, held[0].shape[step.attrs["dim"]]
            case "take_along_dim":
                high = held[0].shape[step.attrs["dim"]]
                low = -high
            case "penalties":
                low, high = 0, held[0].shape[1] + 1
            case _:
                continue
        if ((held[1] < low) | (held[1] >= high)).any():
            faults.append(step.inputs[1])
    return faults


def test_every_case_makes_its_inputs_and_no_index_points_outside(ops, layers):
    for case in (*ops, *layers):
        assert index_faults(case) == [], case.id


def test_an_index_that_points_outside_is_found(catalog):
    case = catalog.select([Selector.parse("ops/gather:shape=33x65,taken=64")], suite="ops")[0]
    beyond = {**case.inputs[1].options, "high": case.inputs[1].options["high"] + 1}
    faulty = replace(case, inputs=(case.inputs[0], replace(case.inputs[1], options=beyond)))
    assert index_faults(faulty) == ["index"]


def test_an_index_put_that_does_not_accumulate_repeats_no_row_unless_it_says_so(ops):
    for case in ops:
        if case.id.path == "ops/index_put" and ("index", "distinct") in case.id.params:
            index = generate(case)["index"].array()
            assert len(set(index.tolist())) == index.size


def test_integer_sums_stay_exact_in_32_bits(ops):
    for case in ops:
        if case.steps[0].op == "int8_linear":
            assert case.inputs[0].shape[-1] <= 2048
