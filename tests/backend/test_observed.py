"""Code that is no step, run as one: the evidence is that of a step, whatever the backend."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parity.backend.base import Unsupported
from parity.backend.observed import TorchBackend, in_use, observe
from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.case.dtype import dtype
from parity.case.tensor import HostTensor


def opened(spec, setting=Setting.STRICT):
    backend = create(BackendSpec.parse(spec), setting)
    backend.open()
    return backend


def ones(backend, kind="f32"):
    return backend.put(HostTensor.of(np.ones((4, 4), dtype(kind).storage), dtype(kind)))


@pytest.mark.parametrize("spec", ["cpu", "sim/ideal", "sim/gaudi2+lazy"])
def test_a_torch_device_shows_every_operation_that_the_code_dispatched(spec):
    backend = opened(spec)
    assert isinstance(backend, TorchBackend)
    with in_use(backend):
        x = ones(backend)
        result, witness = observe(backend, lambda: (x.t() @ x, x + 1), "engine")
    assert [node.kind for node in witness.executed] == ["aten::mm", "aten::add"]
    assert [node.kind for node in witness.moved] == ["aten::t"]
    assert {torch.device(node.device).type for node in witness.executed} == {backend.device.type}
    assert [backend.get(each).array().flat[0] for each in result] == [4.0, 2.0]


def test_code_that_gives_nothing_is_seen_too():
    backend = opened("cpu")
    x = ones(backend)

    def write():
        x.add_(1)

    result, witness = observe(backend, write, "copy")
    assert result is None
    assert [node.kind for node in witness.executed] == ["aten::add_"]


def test_what_a_chip_has_no_kernel_for_is_seen_on_the_host():
    backend = opened("sim/gaudi2", Setting.PRODUCTION)
    with in_use(backend):
        x = ones(backend, "f16")
        _, witness = observe(backend, lambda: x @ x, "linear")
    assert [(node.kind, node.device) for node in witness.host] == [("aten::mm", "cpu")]


def test_whole_numbers_that_the_host_reads_are_moved_and_floats_are_suspect():
    backend = opened("sim/ideal")
    with in_use(backend):
        x = ones(backend)

        def read():
            return (x > 0).cpu()

        def fold():
            return (x + 1).cpu()

        _, reads = observe(backend, read, "experts")
        _, folds = observe(backend, fold, "experts")
    assert ([node.kind for node in reads.moved], reads.host) == (["aten::_to_copy"], ())
    assert [(node.kind, node.device) for node in folds.host] == [("aten::_to_copy", "cpu")]


def test_what_is_refused_is_unsupported_in_the_devices_words():
    backend = opened("sim/gaudi2")
    with in_use(backend):
        x = ones(backend, "f16")
        with pytest.raises(Unsupported, match="aten::mm is not supported for f16 on sim/gaudi2"):
            observe(backend, lambda: x @ x, "linear")


def test_faults_strike_at_the_op_that_the_code_stands_for(monkeypatch):
    monkeypatch.setenv("PARITY_SIM_FAULTS", "out_of_memory@linear")
    backend = opened("sim/ideal")
    with in_use(backend):
        x = ones(backend)
        observe(backend, lambda: x + x, "add")
        with pytest.raises(torch.OutOfMemoryError):
            observe(backend, lambda: x @ x, "linear")


def test_a_backend_without_tensors_of_torch_says_so():
    assert not isinstance(create(BackendSpec.parse("openvino"), Setting.STRICT), TorchBackend)
