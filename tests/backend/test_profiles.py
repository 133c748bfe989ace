import pytest

from parity.backend.cpu_profile import cpu_profile
from parity.backend.profile import Profile
from parity.backend.runtimes.onnxruntime_profile import onnxruntime_profile
from parity.backend.runtimes.openvino_profile import openvino_profile
from parity.backend.spec import Setting
from parity.case.dtype import DTYPES
from parity.case.op import OPS


@pytest.mark.parametrize("profile_of", [cpu_profile, onnxruntime_profile, openvino_profile])
@pytest.mark.parametrize("setting", Setting)
def test_a_profile_speaks_of_ops_and_dtypes_that_exist(profile_of, setting):
    profile = profile_of(setting)
    for fact in profile.declared:
        # A function of torch without an op is named as its calls are recorded.
        assert {op for op in fact.ops if not op.startswith("torch:")} <= OPS.keys()
        assert set(fact.dtypes) <= DTYPES.keys()
    assert Profile.from_json(profile.to_json()) == profile


def test_a_bfloat16_store_of_openvino_flushes_and_a_float32_one_does_not():
    profile = openvino_profile(Setting.STRICT)
    assert profile.fact("results_flushed", op="tanh", dtype=DTYPES["bf16"])
    assert profile.fact("results_flushed", op="tanh", dtype=DTYPES["f32"]) is None
