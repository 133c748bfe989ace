"""A model that is named on the command line becomes a case file, which children load like any other.

The file and the tokens lie in a folder of their own below `.parity/model`, so that the next command can
name the same case. A case's id says which model, and of a prompt no more than its digest. Everything
that cannot be run is refused here, before anything is. Does not run.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from parity.backend.torch_tensor import name_of
from parity.case.case import Case, Subject, SubjectKind
from parity.case.checkpoint import FOLDERS, file_digest
from parity.case.ids import CaseId
from parity.engine.model.arch import Arch
from parity.engine.model.config import read
from parity.engine.model.folder import block_size, config_of, dtype_named, own_dtype
from parity.engine.model.weights import Checkpoint
from parity.engine.serve.text import Text
from parity.errors import UsageError
from parity.run.engine_model import folder_digest
from parity.run.module_target import find_target
from parity.run.ops_case_file import write_cases
from parity.run.ops_of_model import needed
from parity.run.stream import parts

__all__ = ["Asked", "write_model_cases"]

_HOME = Path(".parity/model")
# Tokens of a prompt that nobody gave, and how deep one more token then stands.
_TOKENS = 64
# Of a prompt, this many last tokens are also given one at a time.
_SINGLE = 4
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9._+-]+")
_TOKENS_FILE = "tokens.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the command line says: a checkpoint folder, or `package.module:callable`.

    `tokens` names a file of numbers. With `ops`, every operation alone instead of the model; with
    `stream`, one layer at a time.
    """

    model: str
    dtype: str | None = None
    prompt: str | None = None
    tokens: Path | None = None
    ops: bool = False
    stream: bool = False

    @property
    def is_module(self) -> bool:
        """Whether it is a callable that brings a module, not a folder."""
        return ":" in self.model and not Path(self.model).exists()


def write_model_cases(asked: Asked, home: Path = _HOME) -> Path:
    """Return the case file of a model. Raises UsageError for whatever cannot be run, by name."""
    if asked.prompt is not None and asked.tokens is not None:
        raise UsageError("--prompt and --tokens exclude each other: give the one that you have")
    if asked.ops and (asked.stream or asked.prompt is not None or asked.tokens is not None):
        raise UsageError("--ops needs no weights, no prompt and no --stream: its inputs are generated")
    return _of_module(asked, home) if asked.is_module else _of_folder(asked, home)


def _of_module(asked: Asked, home: Path) -> Path:
    for name in ("prompt", "tokens", "ops", "stream"):
        if getattr(asked, name):
            raise UsageError(
                f"--{name} is for checkpoint folders; {asked.model} brings its own inputs, and its "
                "operations are not known before it runs"
            )
    options = {"target": asked.model, **({"dtype": asked.dtype} if asked.dtype else {})}
    name = _NOT_IN_IDS.sub("-", asked.model)
    subject = Subject(kind=SubjectKind.MODULE, options=options)
    find_target(Case(id=CaseId.of("model/module", {"model": name}), inputs=(), subject=subject))
    return _written(home / name, _MODULE.format(model=name, options=repr(options)))


def _of_folder(asked: Asked, home: Path) -> Path:
    folder = Path(asked.model).expanduser()
    config = config_of(folder)
    arch = read(config, where=str(folder / "config.json"))
    dtype = dtype_named(asked.dtype or own_dtype(config))
    if dtype is torch.float64:
        raise UsageError("--dtype f64: float64 cannot be judged by a float64 oracle; take f32, bf16 or f16")
    kind, name = name_of(dtype), _NOT_IN_IDS.sub("-", folder.resolve().name) or "model"
    if asked.ops:
        length = min(_TOKENS, arch.max_positions - 1)
        found = needed(arch, dtype, prefill=length, depth=length)
        file = _written(home / f"{name}-{kind}-ops", "")
        write_cases(found, file, model=name)
        return file
    Checkpoint(folder, block=block_size(config)).check(arch)
    tokens, source = _tokens(asked, folder, arch)
    values = {"model": name, "dtype": kind, "prompt": source, "tokens": str(len(tokens))}
    here = home / "-".join([name, kind, source, str(len(tokens)), *(["stream"] if asked.stream else [])])
    here.mkdir(parents=True, exist_ok=True)
    table = _write_tokens(tokens, here / _TOKENS_FILE)
    plans = _plans(len(tokens), stream=asked.stream)
    text = _ENGINE.format(
        folders=repr([str(folder.resolve().parent), str(here.resolve())]),
        variable=FOLDERS,
        values=repr({key: (value,) for key, value in values.items()}),
        plans=repr(plans),
        parts=repr(tuple(parts(arch)) if asked.stream else ()),
        count=len(tokens),
        table=repr({"file": _TOKENS_FILE, "digest": table, "tensor": "tokens"}),
        options=repr({"checkpoint": folder.resolve().name, "digest": folder_digest(folder), "dtype": kind}),
    )
    return _written(here, text)


def _plans(count: int, *, stream: bool) -> dict[str, str]:
    single = min(_SINGLE, count - 1)
    decode = f"decode:{count - single}+{single}" if single else ""
    if stream:  # one pass over the weights shows both
        return {"stream": decode or f"prefill:{count}"}
    return {"prefill": f"prefill:{count}", **({"decode": decode} if decode else {})}


def _tokens(asked: Asked, folder: Path, arch: Arch) -> tuple[list[int], str]:
    """Return the tokens and what an id may say of them."""
    if asked.prompt is not None:
        where, tokens = "--prompt", Text(folder, vocab=arch.vocab).encode(asked.prompt)
    elif asked.tokens is not None:
        where, tokens = f"--tokens {asked.tokens}", _numbers(asked.tokens)
    else:
        where, tokens = "generated tokens", _drawn(arch)
    if not tokens:
        raise UsageError(f"{where}: holds no token")
    strange = next((t for t in tokens if not 0 <= t < arch.vocab), None)
    if strange is not None:
        raise UsageError(f"{where}: token {strange} is not in the vocabulary of {arch.vocab:,}")
    if len(tokens) > arch.max_positions:
        raise UsageError(
            f"{where}: {len(tokens):,} tokens are more than the context of {arch.max_positions:,} that "
            "config.json gives the model; shorten it"
        )
    digest = hashlib.sha256(np.array(tokens, dtype="<i8").tobytes()).hexdigest()[:8]
    return tokens, "generated" if where == "generated tokens" else digest


def _drawn(arch: Arch) -> list[int]:
    stream = np.random.Philox(key=arch.vocab).random_raw(min(_TOKENS, arch.max_positions))
    return [int(word) % arch.vocab for word in stream]


def _numbers(file: Path) -> list[int]:
    try:
        words = re.split(r"[\s,\[\]]+", file.read_text(encoding="utf-8").strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--tokens {file}: cannot be read: {error}") from None
    found = []
    for word in filter(None, words):
        if not re.fullmatch(r"-?\d+", word):
            raise UsageError(
                f"--tokens {file}: '{word[:40]}' is no token number; write numbers, as in [1, 15]"
            )
        found.append(int(word))
    return found


def _write_tokens(tokens: Sequence[int], file: Path) -> str:
    """Write a safetensors file of one tensor, and return the digest by which a case believes it."""
    data = np.array(tokens, dtype="<i8").tobytes()
    entry = {"tokens": {"dtype": "I64", "shape": [len(tokens)], "data_offsets": [0, len(data)]}}
    header = json.dumps(entry).encode()
    header += b" " * (-len(header) % 8)
    file.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return file_digest(file)


def _written(folder: Path, text: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "cases.py"
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"cannot write {folder}: {error.strerror}; run from a folder that can be written"
        ) from None
    return file


_ENGINE = '''"""One model on one prompt, which ids name by its digest. Written by `parity check --model`."""

import os

from parity.case.family import family, observed, tensor

# Where the weights and the tokens lie on this host.
FOLDERS = {folders}
old = os.environ.get("{variable}", "").split(os.pathsep)
os.environ["{variable}"] = os.pathsep.join(dict.fromkeys([*FOLDERS, *filter(None, old)]))
VALUES, PLANS, PARTS = {values}, {plans}, {parts}


def _declare(name, plan):
    @family(f"model/{{name}}", **VALUES, **({{"part": PARTS}} if PARTS else {{}}))
    def build(p):
        """A whole model as it is served: each of its operations on what it consumed."""
        tokens = tensor("tokens", "i64", ({count},), "checkpoint", **{table})
        part = {{"part": p.part}} if PARTS else {{}}
        return observed("engine", tokens, plan=plan, **part, **{options})


for _name, _plan in PLANS.items():
    _declare(_name, _plan)
'''

_MODULE = '''"""One module under hooks, written by `parity check --model`."""

from parity.case.family import family, observed


@family("model/module", model=("{model}",))
def build(p):
    """Any torch module as its own code runs it: each of its calls on what it consumed."""
    return observed("module", **{options})
'''
