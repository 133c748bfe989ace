from __future__ import annotations

import pytest

from parity.case.case import Role
from parity.case.dtype import DTYPES
from parity.case.family import (
    REGISTER,
    Family,
    Params,
    dims,
    family,
    one,
    operands,
    parts,
    rows,
    step,
    tensor,
    used,
)
from parity.case.ids import CaseId
from parity.errors import UsageError


def build(_p):
    """What it catches."""
    x = tensor("x", "f32", (2, 3))
    return one("softmax", x, dim=-1, result=x.shape)


def declared(builder=build, **domains):
    return Family(
        path="mine/a",
        domains=domains or {"n": ("1", "2")},
        builder=builder,
        allowed=domains.pop("allowed", lambda _: True),
    )


def test_dims_reads_shapes():
    assert dims("8x1024") == (8, 1024)
    assert dims("0x8") == (0, 8)
    assert dims("7") == (7,)
    assert dims("scalar") == ()


@pytest.mark.parametrize("text", ["8*4", "", "8x", "axb"])
def test_what_is_not_a_shape_is_refused(text):
    with pytest.raises(UsageError) as refused:
        dims(text)
    assert str(refused.value) == f"'{text}' is not a shape: expected numbers joined by x, or scalar"


def test_operands_reads_several_shapes():
    assert operands("2x3.scalar.5") == ((2, 3), (), (5,))


def test_rows_counts_all_but_the_last_dimension():
    assert [rows(shape) for shape in [(), (7,), (2, 3), (2, 3, 4), (0, 3)]] == [1, 1, 2, 6, 0]


def test_tensor_takes_options_of_any_name():
    spec = tensor("x", "bf16", (4,), "boundaries", layout="strided", role=Role.WEIGHT, of="e5m2")
    assert (spec.dtype, spec.layout, spec.role) == (DTYPES["bf16"], "strided", Role.WEIGHT)
    assert dict(spec.options) == {"of": "e5m2"}


def test_one_is_a_step_named_after_its_op_with_the_outputs_of_the_table():
    x = tensor("x", "f32", (2, 3))
    made = one("topk", x, result=(2, 1), k=1, dim=-1, largest=True)
    assert made.inputs == (x,)
    assert [(s.name, s.op, s.inputs, s.outputs) for s in made.steps] == [
        ("topk", "topk", ("x",), ("values", "indices"))
    ]


def test_an_absent_optional_input_stays_absent():
    x = tensor("x", "f32", (2, 3))
    made = one("layer_norm", x, None, tensor("b", "f32", (3,)), result=x.shape, eps=1e-5)
    assert made.steps[0].inputs == ("x", None, "b")
    assert [spec.name for spec in made.inputs] == ["x", "b"]


@pytest.mark.parametrize(
    "empty, sentinel, axis",
    [((0,), (1,), 0), ((0, 8), (1, 8), 0), ((8, 0), (8, 1), 1), ((2, 0, 3), (2, 1, 3), 1)],
)
def test_an_empty_result_is_joined_with_a_sentinel_along_its_empty_dimension(empty, sentinel, axis):
    x = tensor("x", "bf16", empty)
    made = one("exp", x, result=empty)
    assert [(s.name, s.op) for s in made.steps] == [("exp", "exp"), ("use_empty", "cat")]
    join = made.steps[1]
    assert (join.inputs, join.outputs, dict(join.attrs)) == (("y", "sentinel"), ("joined",), {"dim": axis})
    assert made.inputs[1].shape == sentinel
    assert made.inputs[1].dtype is DTYPES["bf16"]


def test_a_result_that_is_not_empty_needs_no_sentinel():
    assert len(one("exp", tensor("x", "f32", (2,)), result=(2,)).steps) == 1


def test_a_sentinel_has_the_type_of_the_result():
    x = tensor("x", "f32", (0, 3))
    made = one("argmax", x, result=(0,), result_dtype="i64", dim=-1, keepdim=False)
    assert (made.inputs[1].dtype, made.inputs[1].dist) == (DTYPES["i64"], "range")
    bare = one("triu_indices", result=(2, 0), result_dtype="i64", rows=1, columns=1, offset=1)
    assert [spec.name for spec in bare.inputs] == ["sentinel"]


def test_a_result_that_is_empty_twice_is_refused():
    with pytest.raises(UsageError) as refused:
        used(one("exp", tensor("x", "f32", (0, 0))), (0, 0), "f32")
    text = "a result of shape (0, 0) is empty in two dimensions and joins with nothing"
    assert str(refused.value) == text


def test_a_step_may_name_itself_and_its_outputs():
    made = step("sort", "x", name="order", outputs="v,i", dim=0, descending=False, stable=True)
    assert (made.name, made.outputs) == ("order", ("v", "i"))


def test_a_step_of_an_unknown_op_is_refused_with_its_near_miss():
    with pytest.raises(UsageError, match=r"^unknown op 'sofmax'; did you mean 'softmax'\?$"):
        step("sofmax", "x")


def test_parameters_are_read_by_name_and_a_slip_has_its_near_miss():
    assert Params({"shape": "8"}).shape == "8"
    with pytest.raises(AttributeError) as slip:
        Params({"shape": "8"}).shpae  # noqa: B018
    assert str(slip.value) == "the family has no parameter 'shpae'; did you mean 'shape'?"


def declare(*args, builder=build, **kwargs):
    """Declare in a namespace of its own, as the catalog does."""
    namespace = {"family": family, "args": args, "kwargs": kwargs, "builder": builder}
    function = type(builder)(builder.__code__, {**builder.__globals__, **namespace}, builder.__name__)
    function.__doc__ = builder.__doc__
    family(*args, **kwargs)(function)
    return function.__globals__[REGISTER]


def test_the_decorator_leaves_its_families_in_the_namespace_in_order():
    found = declare("mine/a", n=("1", "2"))
    assert [(f.path, dict(f.domains)) for f in found] == [("mine/a", {"n": ("1", "2")})]


def undocumented(_p):
    return one("exp", tensor("x", "f32", (2,)))


@pytest.mark.parametrize(
    "args, kwargs, text",
    [
        (("mine/a",), {"n": "12"}, "'mine/a': n must be several texts, got '12'"),
        (("mine/a",), {"n": ()}, "'mine/a': n must be several texts, got ()"),
        (("mine/a",), {"n": (1, 2)}, "'mine/a': n must be several texts, got (1, 2)"),
        (("mine/a",), {"n": ("1", "1")}, "'mine/a': n holds a value twice: ('1', '1')"),
        (
            ("mine/a b",),
            {"n": ("1",)},
            "'mine/a b:n=1' is not a case or selector: expected suite/test:param=value,param=value",
        ),
        (("mine/a",), {"n": ("[1]",)}, "'mine/a:n=[1]': 'n=[1]' may hold only letters, digits and ._+-"),
        (
            ("mine/a",),
            {"n": ("1",), "builder": undocumented},
            "'mine/a': undocumented needs a docstring that says what it catches",
        ),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(args, kwargs, text):
    with pytest.raises(UsageError) as refused:
        declare(*args, **kwargs)
    assert str(refused.value) == text


def test_a_family_without_an_allowed_case_is_refused():
    with pytest.raises(UsageError, match=r"^'mine/a': `allowed` leaves no case$"):
        declared(n=("1",), allowed=lambda _: False).rows()


def test_a_value_that_no_case_may_have_is_refused():
    with pytest.raises(UsageError, match=r"^'mine/a': `allowed` leaves no case with n=2$"):
        declared(n=("1", "2"), m=("1",), allowed=lambda p: p.n == "1").rows()


def test_rows_that_must_stay_come_after_the_covering_design_and_once():
    made = Family(
        path="mine/a",
        domains={"n": ("1", "2")},
        builder=build,
        allowed=lambda _: True,
        also=({"n": "2"}, {"n": "9"}),
    )
    assert made.rows() == [{"n": "1"}, {"n": "2"}, {"n": "9"}]


def test_a_builder_that_returns_something_else_is_refused():
    with pytest.raises(UsageError) as refused:
        declared(builder=lambda _: [1]).build(CaseId.parse("mine/a:n=1"), source="")
    assert str(refused.value) == "its function must return parts(...) or one(...), not list"


def test_a_built_case_has_its_id_inputs_steps_and_source():
    made = declared().build(CaseId.parse("mine/a:n=1"), source="a.py:3")
    assert (str(made.id), made.source, len(made.inputs), len(made.steps)) == ("mine/a:n=1", "a.py:3", 1, 1)


def test_two_steps_read_each_other_by_output_name():
    x = tensor("x", "f32", (2, 3))
    made = parts((x,), step("exp", x, outputs="e"), step("sum", "e", dim=-1, keepdim=False))
    assert [s.inputs for s in made.steps] == [("x",), ("e",)]
