import numpy as np
import pytest
import torch

from parity.backend.base import Unsupported
from parity.backend.torch_tensor import dtype_of, name_of, to_host, to_torch
from parity.case.dtype import DTYPES, dtype
from parity.case.tensor import HostTensor

CPU = torch.device("cpu")
IN_TORCH = [name for name in DTYPES if name != "e4m3_gaudi2"]
# shape, stride, offset in a storage of 64 elements
LAYOUTS = {
    "contiguous": ((8, 8), (8, 1), 0),
    "transposed": ((8, 8), (1, 8), 0),
    "sliced": ((4, 3), (16, 2), 5),
    "expanded": ((5, 8), (0, 1), 7),
    "scalar": ((), (), 63),
    "empty": ((0, 8), (8, 1), 0),
}


def random_bits(name: str) -> np.ndarray:
    to = dtype(name)
    high = 2 if name == "bool" else 256
    raw = np.random.default_rng(7).integers(0, high, 64 * to.itemsize, dtype=np.uint8)
    return raw.view(to.storage)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", IN_TORCH)
def test_every_bit_and_the_layout_survive_the_way_there_and_back(name, layout):
    shape, stride, offset = LAYOUTS[layout]
    host = HostTensor(dtype=dtype(name), storage=random_bits(name), shape=shape, stride=stride, offset=offset)
    there = to_torch(host, CPU)
    assert (tuple(there.shape), there.stride(), there.storage_offset()) == (shape, stride, offset)
    back = to_host(there)
    assert back.dtype is host.dtype
    assert back.is_contiguous
    assert np.ascontiguousarray(host.array()).tobytes() == back.storage.tobytes()


@pytest.mark.parametrize("name, code", [("f32", 0x7F800001), ("f16", 0x7C01), ("f64", 0x7FF0000000000001)])
def test_a_signalling_nan_keeps_its_payload(name, code):
    to = dtype(name)
    host = HostTensor.of(np.array([code], dtype=f"u{to.itemsize}").view(to.storage), to)
    assert to_host(to_torch(host, CPU)).storage.tobytes() == host.storage.tobytes()


def test_torch_owns_its_copy():
    host = HostTensor.of(np.zeros(3, np.float32), dtype("f32"))
    host.storage.setflags(write=False)
    to_torch(host, CPU).fill_(1)
    assert host.storage.tolist() == [0, 0, 0]


def test_a_format_that_torch_lacks_is_unsupported():
    host = HostTensor.of(np.zeros(3, np.uint8), dtype("e4m3_gaudi2"))
    with pytest.raises(Unsupported) as error:
        to_torch(host, CPU)
    assert str(error.value) == f"torch {torch.__version__} has no dtype for float8_e4m3_gaudi2"


def test_a_torch_type_that_we_lack_is_unsupported_and_nameless():
    assert name_of(torch.complex64) == "?"
    with pytest.raises(Unsupported, match=r"^torch\.complex64 is not one of parity's dtypes \(f64, "):
        dtype_of(torch.complex64)
