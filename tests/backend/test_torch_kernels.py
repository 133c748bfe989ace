import pytest

from parity.backend.base import Node, Witness
from parity.backend.torch_kernels import has_kernel, with_own_kernels


@pytest.mark.parametrize(
    "operator, device, found",
    [
        ("aten::mm", "cpu", True),
        ("aten::add", "cpu", True),
        ("aten::mm", "meta", True),
        ("aten::logsumexp", "cpu", False),
        ("aten::mm", "xla", False),
        ("aten::no_such_operator", "cpu", False),
    ],
)
def test_torch_s_own_table_says_which_kernels_a_device_has(operator, device, found):
    assert has_kernel(operator, device) is found


def test_what_is_no_kernel_of_the_device_loses_its_place_and_precision():
    kinds = ("aten::mm", "aten::logsumexp", "neuron:linear", "identity")
    witness = Witness(executed=tuple(Node(kind=kind, device="cpu", precision="f32") for kind in kinds))
    found = with_own_kernels(witness, "cpu").executed
    assert [node.precision for node in found] == ["f32", "?", "?", "f32"]
    assert [node.device == "?" for node in found] == [False, True, True, False]
