"""Engine cases for the tests: tiny networks of three families, and what judges a recording of one."""

from __future__ import annotations

import json
from types import MappingProxyType

from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Case, Subject, SubjectKind
from parity.case.family import tensor
from parity.case.ids import CaseId
from parity.judge.judge import judge
from parity.judge.verdict import Verdict
from parity.run.journal import Journal
from parity.run.recorder import record
from parity.run.subject import weights_of

COMMON = {
    "vocab_size": 37,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
CONFIGS = {
    "llama": {"model_type": "llama", **COMMON},
    "gemma": {
        "model_type": "gemma2",
        **COMMON,
        "head_dim": 8,
        "sliding_window": 3,
        "query_pre_attn_scalar": 8,
    },
    "latent": {
        "model_type": "deepseek_v3",
        **COMMON,
        "num_key_value_heads": 2,
        "moe_intermediate_size": 8,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 8,
        "q_lora_rank": 12,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 6,
        "v_head_dim": 5,
        "n_group": 2,
        "topk_group": 1,
        "routed_scaling_factor": 2.5,
    },
}


def engine_case(arch="llama", *, plan="prefill:9", tokens=9, dtype="f32", name="run", **options) -> Case:
    """A case; `options` take the place of the generated network's."""
    model = options or {"config": json.dumps(CONFIGS[arch]), "weights": "heavy"}
    return Case(
        id=CaseId.parse(f"engine/{name}:arch={arch},dtype={dtype}"),
        inputs=(tensor("tokens", "i64", (tokens,), "index", low=0, high=37),),
        subject=Subject(
            kind=SubjectKind.ENGINE,
            options=MappingProxyType({"dtype": dtype, "plan": plan, **model}),
        ),
    )


def opened(spec="cpu", setting=Setting.STRICT):
    """A backend, open in this process."""
    backend = create(BackendSpec.parse(spec), setting)
    backend.open()
    return backend


def recorded(case, backend=None, *, repeat=1):
    """The recording of a case on a backend, by default the CPU."""
    return record(case, backend or opened(), repeat=repeat, journal=Journal())


def judged(case, recording):
    """The judgement of a recording, weights at hand."""
    return judge(case, recording, weights=weights_of(case))


def departing(judgement):
    """Name and verdict of each step that is not within."""
    return {step.name: step.verdict for step in judgement.steps if step.verdict is not Verdict.WITHIN}
