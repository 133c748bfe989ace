from __future__ import annotations

import subprocess
import sys

import pytest

from parity.backend.cpu_profile import cpu_profile
from parity.backend.registry import available, create, default_target
from parity.backend.sim.backend import SimBackend
from parity.backend.spec import BackendSpec, Setting
from parity.errors import UsageError


def made(spec, setting=Setting.STRICT):
    return create(BackendSpec.parse(spec), setting)


def test_an_unknown_chip_is_refused_before_anything_runs():
    with pytest.raises(UsageError, match="'sim/gaudi' is not a simulated chip; did you mean 'gaudi2'"):
        made("sim/gaudi")


def test_a_chip_has_to_be_named():
    with pytest.raises(UsageError) as error:
        made("sim").env()
    assert str(error.value) == (
        "'sim' names no chip; there are sim/ascend310p, sim/ascend910b, sim/gaudi2, sim/ideal"
    )
    with pytest.raises(UsageError, match="names no chip"):
        made("sim").open()


def test_a_mode_that_the_chip_has_not_is_refused():
    with pytest.raises(UsageError) as error:
        made("sim/ascend910b+lazy")
    assert str(error.value) == "'sim/ascend910b+lazy': sim has no mode 'lazy'; modes: eager"


def test_the_family_is_listed_with_its_chips():
    state = dict(available())["sim"]
    assert state.ok
    assert state.reason == "simulated chips: ascend310p, ascend910b, gaudi2, ideal"


def test_a_simulated_chip_is_never_the_default_target(monkeypatch):
    monkeypatch.setattr(
        "parity.backend.registry.families", lambda: {"sim": "parity.backend.sim.backend:SimBackend"}
    )
    assert SimBackend.is_accelerator is False
    assert default_target() == "cpu"


def test_the_judge_is_told_no_quirk_and_the_probe_every_one(opened):
    backend = opened("sim/gaudi2", Setting.PRODUCTION)
    assert backend.profile() == cpu_profile(Setting.PRODUCTION)
    assert backend.arithmetic().gelu == "tanh"
    assert made("sim/gaudi2", Setting.STRICT).arithmetic().gelu == "erf"


def test_provenance_says_which_chip_with_which_quirks_and_faults(monkeypatch, opened):
    monkeypatch.setenv("PARITY_SIM_FAULTS", "hang@softmax@#9,stale_padding")
    found = opened("sim/ascend910b").provenance()
    assert {name: found[name] for name in ("flavour", "chip", "mode", "path", "quirks", "faults")} == {
        "flavour": "ascend910b",
        "chip": "Ascend 910B as documented",
        "mode": "eager",
        "path": "device",
        "quirks": "float64_is_float32, to_double_gives_float, fp8_casts_on_host, integer_sort_on_aicpu",
        "faults": "hang@softmax@#9, stale_padding",
    }
    assert found["dtype.f64"].startswith("changed: 1.0000000000000002")
    assert found["dtype.bf16"] == "native"


def test_several_indices_are_accepted_and_each_is_the_first_device_of_its_process(opened):
    assert made("sim/ideal:0-7").spec.index == tuple(range(8))
    assert str(opened("sim/ideal:5").device) == "sim:0"


def test_two_chips_open_at_once_do_not_mix(opened, run, tensor):
    quirky, plain = opened("sim/gaudi2", Setting.PRODUCTION), opened("sim/ideal")
    x = [tensor([1.0], "f32")]
    assert run(quirky, "gelu_erf", x).y != run(plain, "gelu_erf", x).y
    assert run(quirky, "gelu_erf", x).y != run(plain, "gelu_erf", x).y


def test_strict_asks_the_launcher_for_the_hosts_exact_switches():
    assert made("sim/ideal").env()["OMP_NUM_THREADS"] == "1"
    assert made("sim/ideal", Setting.PRODUCTION).env() == {}


def test_what_runs_is_shown_as_run_on_the_device(opened, run, tensor):
    ran = run(
        opened("sim/ideal"),
        "attention",
        [tensor([[[[1.0]]]], "f32")] * 3,
        causal=False,
        window=None,
        scale=None,
    )
    assert [(n.kind, n.device, n.precision) for n in ran.witness.executed] == [
        ("aten::scaled_dot_product_attention", "sim:0", "f32")
    ]


def test_indices_that_an_op_makes_itself_are_made_on_the_device(opened, run):
    ran = run(opened("sim/ideal"), "triu_indices", [], rows=2, columns=2, offset=0)
    assert ran.y.tolist() == [[0, 0, 1], [0, 1, 1]]
    assert ran.witness.host == ()


def test_choosing_a_chip_imports_no_torch():
    code = (
        "import sys; from parity.backend.registry import create; from parity.backend.spec import *; "
        "create(BackendSpec.parse('sim/gaudi2+lazy'), Setting.STRICT).available(); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
