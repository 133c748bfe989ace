"""Each family of functions, divisions, moments and ranges catches a fault and passes what is right."""

from __future__ import annotations

import numpy as np
import pytest

from parity.case.dtype import DTYPES
from parity.case.tensor import HostTensor
from parity.judge.oracle import answers
from parity.selftest import divisions, extremes
from parity.selftest.criteria import PLAIN_PROFILE, derived
from parity.selftest.kernel import Kernel
from parity.selftest.problem import cases, problems
from parity.selftest.suite import KERNELS, Kind, right, trials

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # infinities and NaN are met by design

SEED = 5
CASES = cases()
# A planted fault of each family, a legitimate variant where more than one result is right, and parameters
# of cases in which the fault shows.
FAMILIES = {
    "sqrt": ("by_rsqrt", "", {"dtype": "f32"}),
    "reciprocal": ("one_newton_step", "", {"dtype": "f32"}),
    "relu_squared": ("nan_swallowed_by_max", "", {"dist": "special"}),
    "softplus": ("cancels", "exp2", {"dtype": "f32", "dist": "sweep"}),
    "expm1": ("cancels", "fused", {"dtype": "f32", "dist": "small"}),
    "log": ("absolute_error", "functions_high", {"dtype": "f32", "dist": "near_one"}),
    "log1p": ("cancels", "functions_low", {"dtype": "f32", "dist": "small"}),
    "sin": ("short_2_pi", "functions_high", {"dtype": "f32", "dist": "large"}),
    "cos": ("two_parts_of_2_pi", "functions_low", {"dtype": "f32", "dist": "bits"}),
    "pow": ("by_logarithm", "functions_8_high", {"dtype": "f32", "base": "normal"}),
    "pow_scalar": ("square", "fused", {"dtype": "f32", "exponent": "3"}),
    "sub": ("swapped", "", {}),
    "floor_divide": ("other_rounding", "fmod", {"dist": "tenths"}),
    "trunc_divide": ("to_nearest", "fmod", {"dist": "tenths"}),
    "remainder": ("by_rounded_product", "fused", {"dist": "tenths"}),
    "var": ("one_pass", "permuted", {"dtype": "f32", "dist": "shifted"}),
    "norm": ("squares_f16", "blocked16", {"dtype": "f32", "dist": "large"}),
    "group_norm": ("channels_in_turn", "fused", {"dtype": "f32", "groups": "2"}),
    "cumprod": ("rounded_each_bf16", "pairwise", {"dtype": "f32", "dist": "near_one"}),
    "amax": ("nan_skipped", "", {"dist": "ties_nan"}),
    "amin": ("by_magnitude", "", {"dist": "bits"}),
    "max": ("index_plus_1", "last", {"dist": "ties"}),
    "min": ("nan_skipped", "last", {"dist": "ties_nan"}),
    "argsort": ("inverse", "last", {"dist": "ties", "stable": "no", "shape": "3x16x64"}),
    "arange": ("grown", "float64", {"dtype": "f32", "range": "tenths"}),
    "linspace": ("end_missed", "both_ends", {"dtype": "f32", "steps": "77"}),
    "one_hot": ("next_class", "", {"classes": "40"}),
    "tril_indices": ("diagonal_one_more", "", {"rows": "33"}),
    "meshgrid": ("other_indexing", "", {"shape": "7.33"}),
    "rope_partial": ("frequencies_of_head", "reversed", {"dtype": "f32", "pairs": "half", "first": "4097"}),
}


def of_family(name, wanted):
    named = [case for case in CASES if case.id.path == f"ops/{name}"]
    found = [case for case in named if wanted.items() <= dict(case.id.params).items()]
    assert found, (name, wanted)
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_a_fault_of_the_family_is_caught_and_what_is_right_passes(name):
    fault, variant, wanted = FAMILIES[name]
    found = [t for case in of_family(name, wanted) for t in trials(case, seed=SEED, judged_only=True)]
    real = [t for t in found if t.name == fault and t.kind is Kind.REAL]
    assert real
    assert [t.case for t in real if t.accepted["derived"]] == []
    legitimate = [t for t in found if t.kind is Kind.LEGITIMATE]
    assert {t.name for t in legitimate} >= {variant or "plain"}
    assert [(t.case, t.name) for t in legitimate if not t.accepted["derived"]] == []


def test_only_what_ieee_754_rounds_or_what_moves_has_one_right_result():
    exact = {name for name, (_, variant, _) in FAMILIES.items() if not variant}
    rounded = {name for name in FAMILIES if isinstance(KERNELS[name], Kernel)}
    assert exact & rounded == {"sqrt", "reciprocal", "relu_squared", "sub"}
    assert all(len(KERNELS[name].legitimate) == 2 for name in exact & rounded)


@pytest.mark.parametrize("name", ["floor_divide", "trunc_divide", "remainder"])
def test_exact_fractions_and_the_judge_agree_on_what_a_division_may_give(name):
    kernel, said = KERNELS[name], set()
    for dist in ("tenths", "large", "whole", "normal"):
        for case in of_family(name, {"dist": dist}):
            if len(case.steps) > 1:
                continue
            (problem,) = problems(case, right, seed=SEED)
            asked = answers(problem.op, problem.inputs, problem.attrs, PLAIN_PROFILE)
            expected = [answer.expected for answer in asked]
            for made in (kernel.compute(problem, bug) for bug in (*kernel.ways, *kernel.bugs)):
                legal = divisions.is_legal(problem, made)
                assert derived(made, expected) == legal, case.id
                said.add(legal)
    assert said == {True, False}


def test_a_tied_index_is_legal_and_one_beside_it_is_not():
    (case, *_) = of_family("max", {"dist": "ties", "dtype": "f32"})
    (problem,) = problems(case, right, seed=SEED)
    values, indices = extremes.extreme(problem, "last")
    assert extremes.is_extreme(problem, (values, indices))
    n = problem.raw(0).shape[problem.integer("dim")]
    moved = HostTensor.of(np.array((indices.array() + 1) % n), DTYPES["i64"])
    assert not extremes.is_extreme(problem, (values, moved))
