"""A random checkpoint in shards, its parts as cases, and a process that records and judges them all."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from parity.backend.registry import create
from parity.backend.spec import BackendSpec, Setting
from parity.case.case import Case, Subject, SubjectKind
from parity.case.checkpoint import FOLDERS
from parity.case.family import tensor
from parity.case.ids import CaseId
from parity.engine.model.config import read
from parity.engine.model.names import weights
from parity.judge.judge import judge
from parity.judge.verdict import CaseJudgement
from parity.run.engine_model import folder_digest
from parity.run.environment import environment
from parity.run.journal import Journal
from parity.run.recorder import record
from parity.run.stream import Streamed, parts
from parity.run.subject import weights_of
from parity.store.recording import Recording

SMALL = {
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


def write_checkpoint(folder: Path, config: dict, *, shards: int, dtype: torch.dtype) -> int:
    """Write random weights in so many files; return the bytes of the largest layer."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**config, "torch_dtype": str(dtype)[6:]}))
    arch = read(config, where="config")
    draw = torch.Generator().manual_seed(0)
    files: list[dict[str, torch.Tensor]] = [{} for _ in range(shards)]
    sizes: dict[str, int] = {}
    each = [(w, part) for w in weights(arch) for inner in w.parts for part in inner]
    for number, (weight, part) in enumerate(each):
        made = torch.randn(part.shape, generator=draw)
        made = made / math.sqrt(part.shape[-1]) if weight.is_matrix else made.abs() + 0.1
        name = part.name if part.name.startswith("lm_head") else f"model.{part.name}"
        files[number * shards // len(each)][name] = made.to(dtype)
        layer = weight.name.partition(".")[0]
        sizes[layer] = sizes.get(layer, 0) + made.numel() * dtype.itemsize
    index = {}
    for number, held in enumerate(files):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        save_file(held, folder / file)
        index.update(dict.fromkeys(held, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return max(sizes.values())


def part_cases(folder: Path, *, dtype: str, plan: str, tokens: int) -> list[Case]:
    """Return the cases of all parts; `folder` must lie in one of PARITY_WEIGHTS."""
    arch = read(json.loads((folder / "config.json").read_text()), where="config")
    options = {"checkpoint": folder.name, "digest": folder_digest(folder), "dtype": dtype, "plan": plan}
    given = tensor("tokens", "i64", (tokens,), "range")  # the same in every part
    return [
        Case(
            id=CaseId.of("model/stream", {"part": part}),
            inputs=(given,),
            subject=Subject(kind=SubjectKind.ENGINE, options={**options, "part": part}),
        )
        for part in parts(arch)
    ]


def checked(cases: list[Case]) -> Iterator[tuple[Recording, CaseJudgement]]:
    """Record each part on the CPU and judge it, one after another as a child and its launcher do."""
    backend = create(BackendSpec.parse("cpu"), Setting.STRICT)
    backend.open()
    here = environment(backend)
    for case in cases:
        made = record(case, backend, repeat=1, journal=Journal(), environment=here)
        yield made, judge(case, made, weights=weights_of(case))


def anonymous() -> int:
    """Return the bytes of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))


def main(folder: str, tokens: int, *, leak: bool) -> None:
    """Print how far the anonymous memory of this process rose over what its imports need."""
    torch.set_num_threads(1)
    if leak:  # a fault: whatever was read once stays
        kept, held = [], Streamed._held
        Streamed._held = lambda self, names: kept.append(held(self, names)) or kept[-1]
    idle, peak, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            peak[0] = max(peak[0], anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    cases = part_cases(Path(folder), dtype="bf16", plan=f"prefill:{tokens}", tokens=tokens)
    verdicts = [judgement.verdict.value for _, judgement in checked(cases)]
    done.set()
    watching.join()
    sys.stdout.write(json.dumps({"rose": peak[0] - idle, "verdicts": verdicts}))


if __name__ == "__main__":
    os.environ[FOLDERS] = str(Path(sys.argv[1]).parent)
    main(sys.argv[1], int(sys.argv[2]), leak=sys.argv[3:] == ["leak"])
