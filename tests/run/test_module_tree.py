from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from parity.run.module_tree import argument_tensors, tensors_at

pytestmark = pytest.mark.needs_torch

A, B, C = torch.zeros(1), torch.ones(1), torch.ones(2)


def paths(value, path=""):
    return [(where, tensor) for where, tensor in tensors_at(value, path)]


def same(found, expected):
    return [where for where, _ in found] == [where for where, _ in expected] and all(
        one is two for (_, one), (_, two) in zip(found, expected, strict=True)
    )


def test_a_tensor_lies_at_the_path_itself():
    assert same(paths(A), [("", A)])
    assert same(paths(A, "x"), [("x", A)])


def test_containers_name_what_they_hold_by_key_number_or_field():
    class Pair(NamedTuple):
        left: Any
        right: Any

    @dataclass
    class Held:
        keys: torch.Tensor
        rest: list[object] = field(default_factory=list)

    value = OrderedDict(a=[A, (B, None)], b=Pair(C, 3), c=Held(A, ["text", B]))
    expected = [("a.0", A), ("a.1.0", B), ("b.left", C), ("c.keys", A), ("c.rest.1", B)]
    assert same(paths(value), expected)


def test_any_object_is_looked_into_but_no_module_whose_tensors_are_weights():
    class Layer:
        def __init__(self) -> None:
            self.keys, self.module, self.kind = A, nn.Linear(1, 1), torch.float32

    class Cache:
        def __init__(self) -> None:
            self.layers = [Layer(), Layer()]

    assert [where for where, _ in paths(Cache(), "cache")] == ["cache.layers.0.keys", "cache.layers.1.keys"]


def test_what_holds_itself_ends():
    value = [A]
    value.append(value)
    assert paths(value)[0] == ("0", A)
    assert len(paths(value)) < 10


def test_arguments_are_named_by_the_parameters_that_take_them():
    def forward(x, *more, mask=None, **rest):
        return x, more, mask, rest

    found = argument_tensors(forward, (A, B), {"mask": C, "other": {"deep": A}})
    assert same(found, [("x", A), ("more.0", B), ("mask", C), ("rest.other.deep", A)])


def test_arguments_of_a_function_without_a_signature_are_numbered():
    assert same(argument_tensors(print, (A,), {"unknown": B}), [("0", A), ("unknown", B)])
