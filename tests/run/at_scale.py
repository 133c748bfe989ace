"""One layer of the real dimensions of large models: recorded and judged, with time, memory and verdicts.

Random weights in bf16, drawn when they are read, on the CPU. `tools/bench.py` prints it.
"""

from __future__ import annotations

import collections
import hashlib
import json
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.backend.torch_tensor import lent
from parity.case.tensor import HostTensor
from parity.engine.model.config import read
from parity.engine.model.names import Weight, weights
from parity.engine.run.batch import Run
from parity.judge.traced import judge_steps
from parity.run.engine_recorder import Recorder
from parity.run.environment import environment
from parity.run.stream import Streamed
from parity.run.stream_weights import named_experts
from parity.store.recording import Recording, TensorRef

# A vocabulary is no part of a layer; everything else is as published.
_COMMON = {"vocab_size": 64, "num_hidden_layers": 1, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6}
LAYERS: dict[str, tuple[int, dict]] = {
    "Llama-3 70B": (
        64,
        {
            **_COMMON,
            "model_type": "llama",
            "hidden_size": 8192,
            "intermediate_size": 28672,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "rope_theta": 500000.0,
        },
    ),
    "Qwen3-235B-A22B": (
        4,
        {
            **_COMMON,
            "model_type": "qwen3_moe",
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "moe_intermediate_size": 1536,
            "num_attention_heads": 64,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
            "rope_theta": 1000000.0,
        },
    ),
    "DeepSeek-V3 671B": (
        3,
        {
            **_COMMON,
            "model_type": "deepseek_v3",
            "hidden_size": 7168,
            "intermediate_size": 18432,
            "moe_intermediate_size": 2048,
            "num_attention_heads": 128,
            "num_key_value_heads": 128,
            "n_routed_experts": 256,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "first_k_dense_replace": 0,
            "n_group": 8,
            "topk_group": 4,
            "kv_lora_rank": 512,
            "q_lora_rank": 1536,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128,
            "v_head_dim": 128,
            "routed_scaling_factor": 2.5,
            "scoring_func": "sigmoid",
            "topk_method": "noaux_tc",
            "norm_topk_prob": True,
            "rope_theta": 10000.0,
        },
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer: its `tokens`, seconds of CPU, bytes that its steps read and wrote, and what came out.

    `compared` of `elements` were compared one by one. `peak_bytes` is the anonymous memory over imports.
    """

    model: str
    tokens: int
    weight_bytes: int
    record_s: float
    judge_s: float
    judged_bytes: int
    peak_bytes: int
    compared: int
    elements: int
    verdicts: dict[str, int]


def layers_at_scale(names: Sequence[str] = tuple(LAYERS)) -> list[Layer]:
    """Record and judge one layer of each, each in a process of its own."""
    found = []
    for name in names:
        done = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}: {done.stderr}")
        found.append(Layer(**json.loads(done.stdout)))
    return found


def one_layer(name: str) -> Layer:
    """Record and judge one layer in this process."""
    torch.set_num_threads(1)
    idle, peak, over = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.002):
            peak[0] = max(peak[0], anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    tokens, config = LAYERS[name]
    arch = read(config, where=name)
    run = Run(tokens=[0] * tokens, context=0, slots=list(range(tokens)))
    stream = Streamed(arch, [[run]], tokens, read=drawn, device=torch.device("cpu"))
    recorder = Recorder(fetch=lambda tensor: lent(tensor.contiguous()), complete=True)
    hidden = torch.randn(tokens, arch.hidden, generator=seeded("hidden")).bfloat16()
    started = time.process_time()
    with torch.no_grad():
        stream.pass_through(1, [hidden], wrap=recorder.wrap)
    steps, tensors = recorder.steps()
    recorded = time.process_time()
    backend = create(BackendSpec.parse("cpu"), Setting.STRICT)
    backend.open()
    recording = Recording(
        case="bench/layer",
        revision="sha256:0",
        environment=environment(backend),
        steps=tuple(named_experts(steps, stream.chosen)),
        tensors=tensors,
    )
    known, drawing = {weight.name: weight for weight in weights(arch)}, [0.0]

    def find(ref: TensorRef) -> HostTensor:
        begun = time.process_time()
        name, _, experts = ref.name.partition("[")
        numbers = [int(n) for n in re.findall(r"\d+", experts)]
        made = lent(drawn(known[name.removesuffix(".w")], numbers or None))
        drawing[0] += time.process_time() - begun  # stands for reading a file, and is no judging
        return made

    judged = list(judge_steps(recording, weights=find))
    judging = time.process_time() - recorded - drawing[0]
    over.set()
    watching.join()
    outputs = [output for step in judged for output in step.outputs]
    for step in judged:
        sys.stderr.write(f"{step.name:24} {step.verdict.value:9} {step.note}\n")
    return Layer(
        model=name,
        tokens=tokens,
        weight_bytes=2 * sum(math.prod(w.shape) for w in known.values() if w.name.startswith("L00")),
        record_s=recorded - started,
        judge_s=judging,
        judged_bytes=sum(step.bytes for step in recording.steps),
        peak_bytes=peak[0] - idle,
        compared=sum(output.elements for output in outputs),
        elements=sum(math.prod(output.shape) for output in outputs),
        verdicts=dict(collections.Counter(step.verdict.value for step in judged)),
    )


def seeded(name: str) -> torch.Generator:
    """Return a generator that belongs to a name."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little"))


def drawn(weight: Weight, experts: Sequence[int] | None) -> torch.Tensor:
    """Return a random weight, each expert's by its own seed."""
    kind = torch.float32 if weight.name.endswith("router.bias") else torch.bfloat16
    if experts is not None:
        made = torch.empty((len(experts), *weight.shape[1:]), dtype=kind)
        for place, number in zip(made, experts, strict=True):
            place.normal_(std=weight.shape[-1] ** -0.5, generator=seeded(f"{weight.name}/{number}"))
        return made
    made = torch.empty(weight.shape, dtype=kind)
    if weight.is_matrix:
        return made.normal_(std=weight.shape[-1] ** -0.5, generator=seeded(weight.name))
    if weight.name.endswith("bias"):
        return made.normal_(std=0.01, generator=seeded(weight.name))
    return made.uniform_(0.5, 1.5, generator=seeded(weight.name))


def anonymous() -> int:
    """Return the bytes of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(one_layer(sys.argv[1]))))
