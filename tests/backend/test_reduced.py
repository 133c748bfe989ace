import pytest

from parity.backend.base import Node, Witness
from parity.backend.reduced import with_reductions


def ran(kind, precision="f32"):
    return Witness(executed=(Node(kind=kind, device="cuda:0", precision=precision),))


def precision(kind, given="f32", *, products="tf32", convolutions="hf32"):
    return (
        with_reductions(ran(kind, given), products=products, convolutions=convolutions).executed[0].precision
    )


@pytest.mark.parametrize(
    "kind, found",
    [
        ("aten::mm", "tf32"),
        ("aten::addmm", "tf32"),
        ("aten::_scaled_dot_product_efficient_attention", "tf32"),
        ("inductor:linear", "tf32"),
        ("inductor:scaled_dot_product_attention", "tf32"),
        ("aten::convolution", "hf32"),
        ("aten::cudnn_convolution", "hf32"),
        ("inductor:conv2d", "hf32"),
        ("aten::mul", "f32"),
        ("aten::_softmax", "f32"),
    ],
)
def test_products_and_convolutions_are_told_by_name_eager_and_compiled(kind, found):
    assert precision(kind) == found


def test_only_float32_is_reduced():
    assert precision("aten::mm", "bf16") == "bf16"
    assert precision("aten::mm", "f64") == "f64"


def test_what_has_no_permission_stays():
    assert precision("aten::mm", products=None) == "f32"
    assert precision("aten::convolution", convolutions=None) == "f32"
    assert with_reductions(ran("aten::mm"), products=None, convolutions=None) == ran("aten::mm")
