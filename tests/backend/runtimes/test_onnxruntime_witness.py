import pytest

from parity.backend.base import Node
from parity.backend.runtimes.onnxruntime_witness import Kernel, sort

CPU = "CPUExecutionProvider"


def kernel(op, reads=("float",), writes=("float",), provider=CPU):
    return Kernel(op=op, provider=provider, reads=reads, writes=writes)


def names(nodes):
    return [(node.kind, node.precision) for node in nodes]


def test_computing_kernels_are_executed_and_conversions_are_moved():
    witness = sort(
        [kernel("Cast", ("float16",)), kernel("Exp"), kernel("Cast", ("float",), ("float16",))], asked=CPU
    )
    assert witness.executed == (Node(kind="Exp", device="CPU", precision="f32"),)
    assert names(witness.moved) == [("Cast", "f16")] * 2
    assert witness.host == ()


def test_what_another_provider_ran_is_not_on_the_target():
    witness = sort([kernel("Exp", provider="AzureExecutionProvider"), kernel("Cast")], asked=CPU)
    assert witness.host == (Node(kind="Exp", device="Azure", precision="f32"),)
    assert witness.executed == ()


def test_a_kernel_without_a_provider_ran_nobody_knows_where():
    assert sort([kernel("Exp", provider="")], asked=CPU).host == (
        Node(kind="Exp", device="?", precision="f32"),
    )


def test_where_data_only_moves_the_moves_are_what_ran():
    witness = sort([kernel("Cast", ("float",), ("Float8E4M3FN",))], asked=CPU)
    assert names(witness.executed) == [("Cast", "e4m3fn")]
    assert witness.moved == ()


def test_no_kernel_is_no_evidence():
    witness = sort([], asked=CPU)
    assert (witness.executed, witness.moved, witness.host) == ((), (), ())


@pytest.mark.parametrize(
    "reads, writes, precision",
    [
        (("float", "float"), ("float",), "f32"),
        (("float16", "float"), ("float",), "f16"),
        (("bool", "double", "double"), ("double",), "f64"),
        (("float", "int64"), ("float", "int64"), "f32"),
        (("uint8", "bfloat16"), ("float",), "bf16"),
        (("int8", "int8"), ("int32",), "i32"),
        (("int64",), ("bool",), "bool"),
        (("string",), ("complex64",), "?"),
        ((), (), "?"),
    ],
)
def test_the_precision_is_the_coarsest_float_else_what_is_written(reads, writes, precision):
    (node,) = sort([kernel("Op", reads, writes)], asked=CPU).executed
    assert node.precision == precision
