"""What a model needs, from its config alone, against what its engine is recorded to do."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from parity.backend.spec import BackendSpec, Setting
from parity.case.catalog import Catalog
from parity.judge.verdict import Verdict

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are folders of files, not packages

pytestmark = pytest.mark.needs_torch

LLAMA = {
    "model_type": "llama",
    "vocab_size": 67,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
LATENT = {
    **LLAMA,
    "model_type": "deepseek_v3",
    "num_key_value_heads": 4,
    "moe_intermediate_size": 16,
    "n_routed_experts": 8,
    "n_shared_experts": 2,
    "num_experts_per_tok": 3,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 10,
    "n_group": 4,
    "topk_group": 2,
    "q_lora_rank": 20,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
}
LARGE = {
    **LLAMA,
    "vocab_size": 128256,
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
}
CONFIGS = {"llama": LLAMA, "latent": LATENT}


@pytest.fixture
def needed():
    """Return the operations of a config, in bf16."""
    import torch

    from parity.engine.model.config import read
    from parity.run.ops_of_model import needed

    def ask(config, **plan):
        return needed(read(config, where="config"), torch.bfloat16, **(plan or {"prefill": 9, "depth": 5}))

    return ask


def signature(op, shapes, attrs):
    return op, tuple(shapes), tuple(sorted(attrs.items()))


@pytest.mark.parametrize("name", CONFIGS)
def test_it_is_what_the_recorded_engine_does(name, needed):
    import json

    from run.streaming import checked

    from parity.case.case import Case, Subject, SubjectKind
    from parity.case.family import tensor
    from parity.case.ids import CaseId

    options = {"config": json.dumps(CONFIGS[name]), "weights": "normal", "dtype": "bf16", "plan": "prefill:9"}
    case = Case(
        id=CaseId.of("test/engine", {}),
        inputs=(tensor("tokens", "i64", (9,), "range"),),
        subject=Subject(kind=SubjectKind.ENGINE, options=options),
    )
    ((recording, _),) = checked([case])
    done = {
        signature(step.op, [None if r is None else (r.dtype.name, r.shape) for r in step.inputs], step.attrs)
        for step in recording.steps
    }
    found = {
        signature(n.op, [None if s is None else (s.dtype, s.shape) for s in n.inputs], n.attrs)
        for n in needed(CONFIGS[name])
    }
    assert done <= found


def test_an_operation_that_many_sites_share_is_there_once(needed):
    found = needed(LLAMA)
    assert len({one.key for one in found}) == len(found)
    (gated,) = (one for one in found if one.op == "gated" and one.shape == "9x96")
    assert gated.sites == ("L00.gated", "L01.gated", "L02.gated")


def test_a_prompt_one_token_and_both_together_are_planned(needed):
    plans = [one.inputs[4].options["plan"] for one in needed(LLAMA) if one.op == "paged_attention"]
    assert plans == ["0+9", "5+1", "0+9.5+1.5+2"]


def test_no_weight_is_made_and_the_largest_are_cut_by_whole_rows(needed):
    found = needed(LARGE, prefill=16, depth=16)
    inputs = [s for one in found for s in one.inputs if s is not None]
    assert max(math.prod(s.shape) for s in inputs) <= 1 << 24
    (head,) = (one for one in found if one.sites == ("head",))
    assert head.inputs[1].shape == ((1 << 24) // 8192, 8192)
    assert head.inputs[1].cut == 128256


@pytest.mark.parametrize("name", CONFIGS)
def test_every_operation_is_a_case_that_is_within_on_the_cpu(name, needed, tmp_path):
    from parity.backend.registry import create
    from parity.judge.judge import judge
    from parity.run.environment import environment
    from parity.run.journal import Journal
    from parity.run.ops_case_file import DISTS, write_cases
    from parity.run.recorder import record

    found = needed(CONFIGS[name])
    write_cases(found, tmp_path / "cases.py", model=name)
    cases = Catalog.load([tmp_path]).select([], suite=None)
    assert len(cases) == len(DISTS) * len(found)
    backend = create(BackendSpec.parse("cpu"), Setting.STRICT)
    backend.open()
    here = environment(backend)
    for case in cases:
        made = record(case, backend, journal=Journal(), environment=here)
        assert judge(case, made).verdict is Verdict.WITHIN, case.id
