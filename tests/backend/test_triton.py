"""Mode `triton` of the CPU: our kernels in Triton's interpreter, which needs a process of its own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import parity
from parity.backend.base import Availability
from parity.backend.cpu import STRICT_ENV
from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.errors import BackendError

HERE = Path(__file__).parent
ROOT = Path(parity.__file__).parents[1]
KERNELS = ROOT / "parity" / "backend" / "triton_kernels.py"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="pip install 'chip-parity[triton]'"
)


@pytest.fixture
def backend():
    return create(BackendSpec.parse("cpu+triton"), Setting.STRICT)


# Whether it can work here.


def test_a_missing_triton_is_reported_with_the_way_to_get_it(backend, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    assert backend.available() == Availability(
        ok=False, reason="triton is not installed", hint="pip install 'chip-parity[triton]'"
    )


@needs_triton
def test_an_installed_triton_is_enough(backend):
    assert backend.available().ok


def test_the_launcher_is_asked_for_the_interpreter_in_both_settings(backend):
    assert backend.env() == {**STRICT_ENV, "TRITON_INTERPRET": "1"}
    production = create(BackendSpec.parse("cpu+triton"), Setting.PRODUCTION)
    assert production.env() == {"TRITON_INTERPRET": "1"}


@needs_triton
def test_kernels_that_would_be_compiled_are_refused(backend, monkeypatch):
    from parity.backend import torch_triton

    monkeypatch.setattr(torch_triton, "is_interpreted", lambda: False)
    with pytest.raises(BackendError) as error:
        backend.open()
    assert str(error.value) == (
        "'cpu+triton' cannot be opened: Triton was imported without TRITON_INTERPRET=1 in this process, so "
        "its kernels are for a GPU; set it before Python starts"
    )


# What kernels compute.

PROBE = """
import json, runpy, sys
from pathlib import Path
import numpy as np
from parity.backend.base import Unsupported
from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.backend.torch_triton import TRITON_OPS
from parity.case.case import Step
from parity.case.dtype import DTYPES, decode, encode
from parity.case.op import OPS
from parity.case.tensor import HostTensor

backend = create(BackendSpec.parse("cpu+triton"), Setting.STRICT)
backend.open()
found = {"provenance": dict(backend.provenance()), "ops": sorted(TRITON_OPS), "ran": [], "refused": []}

def tensor(values, name):
    to, array = DTYPES[name], np.asarray(values)
    if not to.is_float:
        return HostTensor.of(array.astype(to.storage), to)
    return HostTensor.of(encode(array.astype(np.float64), to).view(to.storage), to)

def run(op, arguments, attrs, floats):
    given = [None if a is None else tensor(a[0], floats if a[1] == "f64" else a[1]) for a in arguments]
    names = tuple(None if a is None else f"i{n}" for n, a in enumerate(arguments))
    outputs = tuple(f"y{n}" for n in range(len(OPS[op].outputs)))
    step = Step(name="s", op=op, inputs=names, outputs=outputs, attrs=attrs)
    made = backend.run(step, [None if g is None else backend.put(g) for g in given])
    made = [backend.get(y) for y in made]
    return [decode(y.array().view(f"u{y.dtype.itemsize}"), y.dtype) for y in made]

for name in sorted(Path(sys.argv[1]).glob("expected*.py")):
    for op, calls in runpy.run_path(str(name))["EXPECTED"].items():
        for arguments, attrs, wanted in calls:
            if any(a is not None and a[1] != "f64" for a in arguments):
                continue
            for floats in ("f32", "f64"):
                try:
                    made = run(op, arguments, attrs, floats)
                except Unsupported as error:
                    found["refused"].append([op, floats, str(error)])
                    continue
                off = max(float(np.abs(y - w).max(initial=0)) for y, w in zip(made, wanted, strict=True))
                shapes = [list(y.shape) for y in made] == [list(w.shape) for w in wanted]
                nodes = [[n.kind, n.device, n.precision] for n in backend.witness().executed]
                found["ran"].append([op, floats, off, shapes, nodes])
for name in ("f32", "bf16", "f16"):
    codes = np.arange(1 << 16, dtype=np.uint16)
    x = DTYPES[name]
    bits = codes.astype(np.uint32) << 16 if name == "f32" else codes
    keep = np.isfinite(decode(bits, x)) & (np.abs(decode(bits, x)) < x.max_finite / 4)
    ones = HostTensor.of(encode(np.ones(int(keep.sum())), x).view(x.storage), x)
    up = HostTensor.of(bits[keep].view(x.storage), x)
    # silu(100) is 100 in each of the types, so the product is up times 100, rounded once.
    gate = HostTensor.of(encode(np.full(up.shape, 100.0), x).view(x.storage), x)
    step = Step(name="s", op="swiglu", inputs=("a", "b"), outputs=("y",), attrs={})
    (y,) = backend.run(step, [backend.put(gate), backend.put(up)])
    exact = encode(np.float64(100.0) * decode(bits[keep], x), x)
    found[name] = int((backend.get(y).array().view(exact.dtype) != exact).sum())
print(json.dumps(found))
"""


def child(tmp_path, *command, **variables):
    path = os.pathsep.join([*variables.pop("before", []), str(ROOT)])
    return subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, **variables},
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("probe")
    ran = child(folder, "-c", PROBE, str(HERE), TRITON_INTERPRET="1", OMP_NUM_THREADS="1")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@needs_triton
def test_every_kernel_computes_what_the_op_table_says(found):
    assert {op for op, *_ in found["ran"]} == set(found["ops"])
    for op, floats, off, same_shapes, _ in found["ran"]:
        assert (floats == "f32" or op == "cat") and same_shapes
        assert off < 1e-5, op  # tens of roundings of float32 on values near one


@needs_triton
def test_what_has_no_kernel_is_refused_and_so_is_float64(found):
    said = {(op, floats): words for op, floats, words in found["refused"]}
    assert said["matmul", "f32"] == "op 'matmul' has no Triton kernel"
    assert said["softmax", "f64"] == "the Triton kernel of 'softmax' takes f32, bf16 and f16, not f64"


@needs_triton
def test_each_launch_is_a_node_with_the_types_of_its_tensors(found):
    nodes = {op: nodes for op, _, _, _, nodes in found["ran"]}
    assert nodes["add_rms_norm"] == [["triton:add_rms_norm(f32, f32, f32, f32, f32)", "cpu", "f32"]]
    assert nodes["rms_norm"][0][0].startswith("triton:rms_norm(f32")
    assert {kind for [[kind, *_], *_] in nodes.values()} == {node[0][0] for node in nodes.values()}


@needs_triton
def test_provenance_says_that_the_interpreter_ran(found):
    assert found["provenance"]["triton.kernels"] == "interpreted"
    assert found["provenance"]["triton"] == importlib.metadata.version("triton")


@needs_triton
@pytest.mark.parametrize("name", ["f32", "bf16", "f16"])
def test_every_number_is_read_exactly_and_rounded_once_to_nearest(found, name):
    assert found[name] == 0


COMPILE = """
import warnings
warnings.simplefilter("ignore")
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
import triton
from parity.backend import triton_kernels as kernels

T, N = "*bf16", "i32"
JOBS = {
    "add_rms_norm": (dict(x=T, residual=T, g=T, total=T, y=T, columns=N, eps="fp32"), dict(BLOCK=1024)),
    "norm_rotate": (
        dict(qkv=T, q_weight=T, k_weight=T, cos="*fp32", sin="*fp32", q=T, k=T, v=T, eps="fp32"),
        dict(H=4, G=2, HALF=40, BLOCK=64),
    ),
    "hstu_attention": (
        dict(q=T, k=T, v=T, bias=T, y=T, tokens=N, scale="fp32", length=N),
        dict(H=4, D=24, E=24, HAS_BIAS=True, ROWS=32, KEYS=32, BLOCK_D=32, BLOCK_E=32),
    ),
    "rms_norm": (dict(x=T, g=T, y=T, columns=N, eps="fp32"), dict(HAS_G=True, BLOCK=1024)),
    "softmax": (dict(x=T, y=T, size=N, inner=N), dict(BLOCK=1024)),
    "gated": (
        dict(gate=T, up=T, y=T, columns=N, stride=N, offset=N), dict(KIND="gelu_pytorch_tanh", BLOCK=1024)
    ),
    "join": (dict(x="*i16", y="*i16", size=N, run=N, stride=N, offset=N), dict(BLOCK=1024)),
}
for name, (signature, constants) in JOBS.items():
    kernel = getattr(kernels, name)
    types = {a: signature.get(a, "constexpr") for a in kernel.arg_names}
    fixed = {(kernel.arg_names.index(a),): value for a, value in constants.items()}
    source = ASTSource(fn=kernel, signature=types, constexprs=fixed)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert ".target sm_90" in made.asm["ptx"]
    print(name)
"""


@needs_triton
def test_the_same_kernels_compile_for_a_gpu_that_is_not_here(tmp_path):
    ran = child(tmp_path, "-c", COMPILE, TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path))
    assert ran.returncode == 0, ran.stderr
    exported = re.search(r"__all__ = \[(.*?)\]", KERNELS.read_text(), re.DOTALL)[1]
    assert {f'"{name}"' for name in ran.stdout.split()} == set(re.findall(r'"\w+"', exported)) - {'"version"'}


# The whole way, against the unfused form, and with bugs planted in the kernels.

HSTU = "ops/hstu_attention:bias=no,dist=normal,dtype=f32,layout=strided,length=200,scale=1,shape=33x2x64x32"
SITE = """
import importlib.util, os, sys
if os.environ.get("TRITON_INTERPRET") == "1":
    import parity.backend
    name = "parity.backend.triton_kernels"
    spec = importlib.util.spec_from_file_location(name, {path!r})
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parity.backend.triton_kernels = module
"""


def check(tmp_path, *cases, ref="oracle", changes=()):
    """Check cases on cpu+triton, with pieces of the kernels' source replaced; return them by verdict."""
    source = KERNELS.read_text()
    for old, new in changes:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    site = tmp_path / "site"
    site.mkdir()
    planted = tmp_path / "kernels.py"
    planted.write_text(source)
    (site / "sitecustomize.py").write_text(SITE.format(path=str(planted)))
    report = tmp_path / "run.json"
    command = ("-m", "parity", "check", "--ref", ref, "--target", "cpu+triton", *cases, "--json", str(report))
    ran = child(tmp_path, *command, before=[str(site)])
    assert report.exists(), ran.stderr
    return {c["id"]: c for c in json.loads(report.read_text())["cases"]}, ran


@needs_triton
def test_fused_kernels_are_held_against_the_calls_of_model_code(tmp_path):
    cases = [
        "ops/add_rms_norm:dist=normal,dtype=bf16",
        "ops/norm_rotate:dist=normal,dtype=bf16",
        HSTU,
    ]
    found, ran = check(tmp_path, *cases, ref="cpu")
    assert len(found) > 3
    assert {c["verdict"] for c in found.values()} == {"within"}, ran.stdout
    assert ran.returncode == 0


# A case, what is replaced in the source of its kernel by what, and the cause that is to be found.
PLANTED = {
    "the mask of the last tile left out": (
        "ops/softmax:dim=-1,dist=normal,dtype=f32,layout=contiguous,shape=4x1025",
        's = tl.where(inside, _read(x + place, inside), float("-inf"))',
        "s = _read(x + place, inside)",
        "1023 padded zeros are in the denominator: explains 4,100 of 4,100 failing elements",
    ),
    "padding counted in the mean": (
        "ops/add_rms_norm:dist=normal,dtype=bf16,shape=33x257",
        "n = s * tl.rsqrt(tl.sum(s * s, axis=0) / columns + eps)",
        "n = s * tl.rsqrt(tl.sum(s * s, axis=0) / BLOCK + eps)",
        "the mean of squares was taken over 512 terms, not 257: explains 8,481 of 8,481 failing elements",
    ),
    "a token sees the next one": (
        HSTU,
        "seen = (key[None, :] <= query[:, None]) & is_key[None, :]",
        "seen = (key[None, :] <= query[:, None] + 1) & is_key[None, :]",
        # The last query of a tile has no key behind it there.
        "each token sees the next one, in rows 0 to 30: explains 1,698 of 1,698 failing elements",
    ),
    "the stride of another tensor": (
        "ops/hstu_attention:dist=small,dtype=f32,shape=65x1x16x64",
        "v + (key[:, None] * H + head) * E + column[None, :]",
        "v + (key[:, None] * H + head) * D + column[None, :]",
        "no known pattern",
    ),
    "k with the weight of q": (
        "ops/norm_rotate:dist=normal,dtype=f32,shape=17x4x2x64",
        "weight, place = k_weight + lane, k +",
        "weight, place = q_weight + lane, k +",
        "k: the weight of the other norm: explains 2,176 of 2,176 failing elements",
    ),
}


@needs_triton
@pytest.mark.parametrize("bug", PLANTED)
def test_a_bug_in_a_kernel_exceeds_and_its_cause_is_named(tmp_path, bug):
    case, old, new, words = PLANTED[bug]
    found, ran = check(tmp_path, case, changes=[(old, new)])
    (only,) = found.values()
    assert only["verdict"] == "exceeds", ran.stdout
    assert only["causes"][0]["text"] == words
    assert ran.returncode == 1
