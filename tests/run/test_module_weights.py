from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.run.observed import Observed

pytestmark = pytest.mark.needs_torch

X = torch.linspace(-2, 3, 12).reshape(3, 4)


def test_weights_are_named_and_not_stored():
    run = Observed(nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8)), X)
    refs = [ref for record in run.calls for ref in record.inputs if ref.role == "weight"]
    assert {ref.name for ref in refs} == set(dict(run.model.named_parameters()))
    assert not {ref.digest for ref in refs} & set(run.tensors)
    assert all(run.find(ref).digest() == ref.digest for ref in refs)


def test_a_view_of_a_weight_is_named_by_its_place_in_it():
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held = nn.Parameter(torch.arange(40.0))
            self.w = nn.Parameter(self.held.data[8:].view(2, 4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w[1].T + self.w[0, 0]

    run = Observed(Experts(), X)
    ref = run.steps["./matmul"].inputs[1]
    assert (ref.name, ref.role, ref.offset) == ("held[4x4 by 1x4 at 24]", "weight", 24)
    assert torch.equal(run.consumed("./matmul", 1), run.model.w[1].T)
