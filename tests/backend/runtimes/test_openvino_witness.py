import pytest

from parity.backend.base import Node
from parity.backend.runtimes.openvino_witness import GraphNode, sort


def node(layer, precision="f32", output=None, reads=(), *, layers=1, empty=False):
    return GraphNode(
        layer=layer,
        precision=precision,
        output=output or precision,
        reads=reads,
        layers=layers,
        empty=empty,
    )


def names(nodes):
    return [(item.kind, item.precision) for item in nodes]


def test_computing_nodes_are_executed_and_conversions_are_moved():
    witness = sort(
        [
            node("Input"),
            node("Reorder", "f32", "bf16", ("Input",)),
            node("Const", "i32"),
            node("FullyConnected", "bf16", "f32", ("Reorder",)),
            node("Output", reads=("FullyConnected",)),
        ],
        device="CPU",
    )
    assert witness.executed == (Node(kind="FullyConnected", device="CPU", precision="bf16"),)
    assert names(witness.moved) == [("Reorder", "f32")]
    assert witness.host == ()


def test_an_output_that_reads_a_constant_was_computed_on_the_host():
    witness = sort([node("Input"), node("Const"), node("Output", reads=("Const",))], device="CPU")
    assert witness.executed == ()
    assert witness.host == (Node(kind="Const", device="host", precision="f32"),)


def test_a_constant_whose_type_changes_on_the_way_out_was_computed_on_the_host():
    # `reads` passes over the conversion: what the output gets is the constant.
    graph = [
        node("Const", "i32"),
        node("Convert", "i32", "i64", ("Const",)),
        node("Output", "i64", reads=("Const",)),
    ]
    witness = sort(graph, device="CPU")
    assert names(witness.host) == [("Const", "i64")]
    assert witness.executed == ()


def test_one_folded_output_beside_a_computed_one_is_host_work():
    graph = [node("TopK"), node("Output", reads=("TopK",)), node("Output", "i64", reads=("Const",))]
    assert names(sort(graph, device="CPU").host) == [("Const", "i64")]


def test_an_output_without_elements_needs_no_work():
    witness = sort([node("Const"), node("Output", reads=("Const",), empty=True)], device="CPU")
    assert names(witness.executed) == [("Output", "f32")]
    assert witness.host == ()


def test_where_data_only_moves_the_moves_are_what_ran():
    graph = [node("Input"), node("Convert", "f32", "e4m3"), node("Output", reads=("Convert",))]
    witness = sort(graph, device="CPU")
    assert names(witness.executed) == [("Convert", "f32")]
    assert witness.moved == ()


def test_a_generated_kernel_that_only_converts_does_not_prove_the_precision():
    graph = [
        node("Input", "f16"),
        node("Subgraph", "f16", "f32", ("Input",)),
        node("MatMul", "f32", reads=("Subgraph",)),
        node("Subgraph", "f32", "f16", ("MatMul",)),
        node("Output", "f16", reads=("Subgraph",)),
    ]
    witness = sort(graph, device="CPU")
    assert names(witness.executed) == [("MatMul", "f32")]
    assert names(witness.moved) == [("Subgraph", "f16"), ("Subgraph", "f32")]


@pytest.mark.parametrize(
    "kernel",
    [
        node("Subgraph", "f16", "f32", layers=2),
        node("Subgraph", "f16", "f16"),
        node("Subgraph", "f32", "boolean"),
        node("Eltwise", "f16", "f32"),
    ],
)
def test_a_kernel_that_computes_is_executed(kernel):
    assert len(sort([kernel], device="CPU").executed) == 1
    assert sort([kernel, node("MatMul")], device="CPU").moved == ()


def test_an_output_that_reads_an_input_is_named_itself():
    graph = [node("Input", "bf16"), node("Output", "bf16", reads=("Input",))]
    assert names(sort(graph, device="CPU").executed) == [("Output", "bf16")]


@pytest.mark.parametrize(
    "precision, output, shown",
    [
        ("bf16", "f32", "bf16"),
        ("u8", "f32", "f32"),
        ("u8", "i32", "i32"),
        ("f32", "f32,i32", "f32"),
        ("boolean", "boolean", "bool"),
        ("f8e4m3", "f8e4m3", "e4m3fn"),
        ("f8e5m2", "i32", "e5m2"),
        ("undefined", "undefined", "?"),
    ],
)
def test_a_mask_or_an_index_does_not_hide_the_precision(precision, output, shown):
    witness = sort([node("Eltwise", precision, output)], device="CPU")
    assert names(witness.executed) == [("Eltwise", shown)]
