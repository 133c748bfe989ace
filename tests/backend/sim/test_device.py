"""The device without a quirk is the host to the bit, through both of its paths."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from parity.backend import torch_ops
from parity.backend.sim.backend import PATH_VARIABLE, SimBackend
from parity.backend.sim.device import SimTensor, has_hook, using
from parity.backend.sim.load import find
from parity.backend.sim.mode import simulated
from parity.backend.spec import BackendSpec, Setting
from parity.case.catalog import Catalog
from parity.run.journal import Journal
from parity.run.recorder import record

ROOT = Path(__file__).parents[3]
PATHS = {"device": "sim/{}", "lazy": "sim/{}+lazy", "mode": "sim/{}"}


def opened(spec, setting=Setting.STRICT):
    backend = SimBackend(BackendSpec.parse(spec), setting)
    backend.open()
    return backend


@pytest.fixture(scope="module")
def smoke():
    # The engine chooses other kernels on the host: its own tests hold it to bit-equality.
    return [case for case in Catalog.load([ROOT / "cases"]).select([], suite="smoke") if case.steps]


def digests(cases, backend):
    found = {}
    for case in cases:
        recording = record(case, backend, journal=Journal())
        found[str(case.id)] = [
            (step.name, step.failure, [ref.digest for ref in step.outputs]) for step in recording.steps
        ]
    return found


@pytest.fixture
def hosts(smoke, cpu, monkeypatch):
    # Kernels that only the CPU has are no part of what another device can run.
    for name, function in torch_ops.PLAIN_OPS.items():
        monkeypatch.setitem(torch_ops.TORCH_OPS, name, function)
    return digests(smoke, cpu)


@pytest.mark.parametrize("path", PATHS)
def test_the_ideal_chip_is_bit_equal_to_the_host(smoke, hosts, monkeypatch, path):
    if path == "mode":
        monkeypatch.setenv(PATH_VARIABLE, "mode")
    assert digests(smoke, opened(PATHS[path].format("ideal"))) == hosts
    assert len(hosts) > 100


def test_a_quirk_makes_a_difference_to_that(smoke, hosts):
    affected = [case for case in smoke if case.id.path == "ops/gelu_erf"]
    found = digests(affected, opened("sim/gaudi2", Setting.PRODUCTION))
    assert any(found[case] != hosts[case] for case in found)


@pytest.mark.parametrize("setting", Setting)
@pytest.mark.parametrize("chip", ["gaudi2", "ascend910b", "ascend310p"])
def test_the_dispatch_mode_gives_the_bits_of_the_device(smoke, monkeypatch, chip, setting):
    some = smoke[::4]
    device = digests(some, opened(f"sim/{chip}", setting))
    monkeypatch.setenv(PATH_VARIABLE, "mode")
    assert digests(some, opened(f"sim/{chip}", setting)) == device


def block(x, weights, *, layers=2):
    """Two layers of a decoder with a cache, views of views, in-place operations and masks."""
    size = x.shape[-1]
    for layer in range(layers):
        wq, wo, up, down = weights[layer]
        h = F.rms_norm(x, (size,), eps=1e-6)
        q, k, v = (h @ wq).view(x.shape[0], x.shape[1], 3, 4, size // 4).permute(2, 0, 3, 1, 4).unbind(0)
        cache = torch.zeros(2, *k.shape, device=x.device, dtype=x.dtype)
        cache[0, :, :, 1:].copy_(k[:, :, 1:])
        cache[0][..., :1, :] = k[..., :1, :]
        cache[1].add_(v)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        o = F.scaled_dot_product_attention(q, cache[0], cache[1], attn_mask=mask)
        x = x + (o.transpose(1, 2).reshape(x.shape) @ wo)
        gate, value = (F.layer_norm(x, (size,)) @ up).chunk(2, dim=-1)
        x += (F.silu(gate).mul_(value)) @ down
        x[:, 0].mul_(2).clamp_(-8, 8)
        x = x.transpose(0, 1).contiguous().squeeze_().transpose_(0, 1) if x.shape[0] > 1 else x
    scores = x.sum(-1)
    best = scores.topk(2).indices
    return x, scores, best, x.gather(1, best[..., None].expand(-1, -1, size)), F.softmax(scores, -1)


def of_block(device, dtype):
    generator = torch.Generator().manual_seed(5)

    def draw(*shape):
        return (torch.randn(shape, generator=generator) / 4).to(dtype).to(device)

    weights = [(draw(32, 96), draw(32, 32), draw(32, 64), draw(32, 32)) for _ in range(2)]
    with torch.no_grad():
        return [t.cpu() for t in block(draw(3, 7, 32), weights)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("path", PATHS)
def test_a_block_with_views_and_writes_in_place_is_bit_equal(path, dtype):
    expected = of_block(torch.device("cpu"), dtype)
    backend = opened(PATHS[path].format("ideal"))
    if path == "mode":
        with simulated(backend._kernels):
            got = of_block(torch.device("cpu"), dtype)
    else:
        with using(backend._engine):
            got = of_block(torch.device("sim"), dtype)
    assert all(map(torch.equal, got, expected))


@pytest.fixture(params=["eager", "lazy"])
def device(request):
    backend = opened("sim/gaudi2" + ("+lazy" if request.param == "lazy" else ""))
    with using(backend._engine), torch.no_grad():
        yield torch.device("sim")


def test_a_view_shares_memory_with_what_it_views(device):
    x = torch.arange(6.0).reshape(2, 3).to(device)
    x[1:].mul_(10)
    assert x.cpu().tolist() == [[0.0, 1.0, 2.0], [30.0, 40.0, 50.0]]
    assert isinstance(x, SimTensor)


def test_an_operation_that_reshapes_its_own_tensor_reshapes_it(device):
    x = torch.arange(3.0).to(device)[None] + 1
    assert x.squeeze_(0).shape == x.shape == (3,)
    assert x.unsqueeze_(1).t_().shape == (1, 3)
    assert x.cpu().tolist() == [[1.0, 2.0, 3.0]]


def test_out_of_another_shape_is_refused(device):
    x, out = torch.ones(2, device=device), torch.empty(3, device=device)
    with pytest.raises(RuntimeError) as error:
        torch.add(x, x, out=out)
    assert str(error.value) == (
        "aten::add: out= has shape [3] and the result [2], which this device cannot resize it to. "
        "Pass one of that shape"
    )
    right = torch.empty(2, device=device)
    torch.add(x, x, out=right)
    assert right.cpu().tolist() == [2.0, 2.0]


def test_what_is_written_and_not_returned_is_written(device):
    mean, variance = torch.zeros(2, device=device), torch.ones(2, device=device)
    x = torch.tensor([[1.0, 2.0], [3.0, 6.0]]).to(device)
    y = F.batch_norm(x, mean, variance, training=True, momentum=1.0)
    assert y.shape == x.shape
    assert mean.cpu().tolist() == [2.0, 4.0]


def test_a_resize_is_refused(device):
    with pytest.raises(
        RuntimeError, match="aten::resize: a tensor of the simulated device cannot be resized"
    ):
        torch.ones(2, device=device).resize_(3)


def test_factories_lists_of_indices_and_numbers_work(device):
    assert torch.arange(3, device=device).cpu().tolist() == [0, 1, 2]
    assert torch.full((2,), float("inf"), device=device).cpu().tolist() == [float("inf")] * 2
    x = torch.arange(4.0, device=device)
    x[[0, 2]] = 9
    assert x.cpu().tolist() == [9.0, 1.0, 9.0, 3.0]
    assert x.sum().item() == 22.0
    assert torch.nonzero(x > 2).cpu().tolist() == [[0], [2], [3]]
    host = torch.empty(4)
    host.copy_(x)
    assert host.tolist() == x.cpu().tolist()


def test_a_default_device_does_not_reach_into_kernels(device):
    with torch.device(device):
        q = torch.ones(1, 1, 2, 4)
        y = F.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert y.cpu().tolist() == [[[[1.0] * 4] * 2]]


def test_the_device_is_there_only_while_a_chip_is_in_use():
    backend = opened("sim/ideal")
    with using(backend._engine):
        assert torch.sim.is_available()
    assert not torch.sim.is_available()


def test_a_layer_of_torch_moves_to_the_device(device):
    layer = torch.nn.Linear(3, 2).to(device)
    assert layer(torch.ones(1, 3, device=device)).device == torch.device("sim", 0)


def test_this_torch_has_the_hook_and_an_older_one_has_not(monkeypatch):
    assert has_hook() == hasattr(torch._C, "_acc")
    monkeypatch.delattr(torch._C, "_acc", raising=False)
    assert not has_hook()


def test_without_the_hook_a_chip_runs_through_the_mode_and_lazy_says_why_not(monkeypatch, run, tensor):
    monkeypatch.delattr(torch._C, "_acc", raising=False)
    backend = opened("sim/gaudi2", Setting.PRODUCTION)
    assert backend.provenance()["path"] == "dispatch mode"
    assert run(backend, "gelu_erf", [tensor([1.0], "f32")]).outputs[0].array().tolist() == [
        pytest.approx(0.841192, abs=1e-6)
    ]
    with pytest.raises(
        Exception, match="has no hook for a device written in Python, and lazy mode needs one"
    ):
        opened("sim/gaudi2+lazy")


def test_the_mode_simulates_only_while_it_is_active():
    chip = find("gaudi2")
    backend = SimBackend(BackendSpec.parse("sim/gaudi2"), Setting.PRODUCTION, chip)
    backend.open()
    x = torch.ones(1)
    with simulated(backend._kernels):
        inside = F.gelu(x)
    assert inside.item() == pytest.approx(0.841192, abs=1e-6)
    assert F.gelu(x).item() == pytest.approx(0.841345, abs=1e-6)
