from __future__ import annotations

import functools

import pytest


@pytest.mark.parametrize(
    "op, attrs",
    [
        ("slice", {"index": "x[..., 1::2]"}),
        ("slice_move", {"target": "x[1:]", "source": "x[:-1]", "cloned": False}),
        ("negate_view", {"index": "x[1:, None, -1]", "swapped": True}),
    ],
)
def test_an_index_that_is_text_is_read_before_a_compiler_traces(op, attrs):
    import torch

    from parity.backend.torch_ops import TORCH_OPS

    x = torch.arange(12.0).reshape(3, 4)
    function = functools.partial(TORCH_OPS[op], **attrs)
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=False)
    wanted = torch.stack([x[0], x[0], x[1]]) if op == "slice_move" else function(x)
    assert torch.equal(compiled(x), wanted)


def test_eager_torch_refuses_an_overlap_that_it_sees():
    import torch

    from parity.backend.torch_ops import TORCH_OPS

    with pytest.raises(RuntimeError, match="refer to a single memory location"):
        TORCH_OPS["slice_move"](torch.zeros(3, 4), target="x[1:]", source="x[:-1]", cloned=False)
