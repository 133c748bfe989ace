"""The network that an engine case names, and its weights: generated bit by bit, or of a checkpoint.

Child and judge ask here alike, so both hold the same weights or learn that they do not. One weight
at a time. Does not run the network.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from parity.backend.torch_tensor import to_host
from parity.case.builtin import builtin_cases
from parity.case.case import Case, TensorSpec
from parity.case.checkpoint import FOLDERS, file_digest
from parity.case.draw import key_text
from parity.case.dtype import DType, dtype
from parity.case.inputs import check, values
from parity.case.op import Attr
from parity.case.tensor import HostTensor
from parity.engine.model.arch import Arch
from parity.engine.model.config import read
from parity.engine.model.folder import block_size, config_of
from parity.engine.model.names import Weight, weights
from parity.engine.model.weights import Checkpoint, read_weight
from parity.errors import GoldenError, UsageError, near_miss

__all__ = ["Model", "folder_digest", "model_of"]

_OPTIONS = ("checkpoint", "config", "digest", "dtype", "force", "part", "plan", "weights")
_DTYPES = ("f32", "bf16", "f16")
_CONFIG = "config.json"
# What decides which numbers a checkpoint computes with.
_FILES = (_CONFIG, "*.safetensors", "*.safetensors.index.json")
_SUFFIX = ".w"  # a recording calls a weight by its name and this, a bias by its name alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A network, the type that it computes in, and where each weight comes from.

    `files` are those of a checkpoint, None where weights are generated; `force` holds the ops and
    sites that keep their reference, as for `Binder`.
    """

    arch: Arch
    dtype: DType
    make: Callable[[Weight], HostTensor]
    files: Checkpoint | None = None
    force: tuple[str, ...] = ()

    def weights(self) -> dict[str, Weight]:
        """Return what there is, by the engine's own names."""
        return {weight.name: weight for weight in weights(self.arch)}

    def find(self, name: str) -> HostTensor | None:
        """Return a weight by the name that a recording gives it, None where the network has none such."""
        known = self.weights()
        weight = known.get(name if name.endswith(".bias") else name.removesuffix(_SUFFIX))
        return None if weight is None else self.make(weight)


def model_of(case: Case) -> Model:
    """Return the network of a case. Raises UsageError for options that make none.

    Raises GoldenError when a checkpoint is not here or is another one.
    """
    assert case.subject is not None
    options = case.subject.options
    for name in options:
        if name not in _OPTIONS:
            raise UsageError(f"{case.where}: an engine has no option '{name}'{near_miss(name, _OPTIONS)}")
    wanted = _text(case, "dtype")
    if wanted not in _DTYPES:
        raise UsageError(f"{case.where}: dtype '{wanted}' is none of {', '.join(_DTYPES)}")
    force = tuple(_text(case, "force").split(",")) if "force" in options else ()
    make = _loaded if "checkpoint" in options else _generated
    return dataclasses.replace(make(case, dtype(wanted)), force=force)


def _text(case: Case, name: str) -> str:
    assert case.subject is not None
    value = case.subject.options.get(name)
    if not isinstance(value, str) or not value:
        raise UsageError(f"{case.where}: an engine needs the option '{name}', a text; got {value!r}")
    return value


def _generated(case: Case, wanted: DType) -> Model:
    try:
        config = json.loads(_text(case, "config"))
    except ValueError as error:
        raise UsageError(f"{case.where}: the option 'config' is not JSON: {error}") from None
    arch, dist = read(config, where=f"{case.where}: config"), _text(case, "weights")

    @lru_cache(maxsize=4)
    def make(weight: Weight) -> HostTensor:
        spec = _spec(arch, weight, wanted, dist)
        check(spec)
        return HostTensor.of(values(spec, key=key_text(case.id, weight.name)), spec.dtype)

    return Model(arch=arch, dtype=wanted, make=make)


def _spec(arch: Arch, weight: Weight, wanted: DType, dist: str) -> TensorSpec:
    """Describe a generated weight so that activations stay of the size of 1.

    Norms are around their neutral value; what breaks ties of experts is float32, as trained.
    """
    exponent: dict[str, Attr] = {}
    kind = dtype("f32") if weight.name.endswith("router.bias") else wanted
    if weight.is_matrix:
        width = weight.shape[-1]
        # Of `heavy` a row has some 3 a value, and 1 channel of a hundred with 100 squared.
        power = 3 * width + 10_000 * max(1, (width + 50) // 100) if dist == "heavy" and width >= 8 else width
        exponent["exponent"] = -round(power.bit_length() / 2)
    elif weight.name.endswith("bias"):
        dist, exponent["exponent"] = "normal", -3
    elif arch.norm_offset:
        dist, exponent["exponent"] = "normal", -2
    else:
        dist = "positive"
    return TensorSpec(name=weight.name, dtype=kind, shape=weight.shape, dist=dist, options=exponent)


def _loaded(case: Case, wanted: DType) -> Model:
    folder = _find(_text(case, "checkpoint"), _text(case, "digest"))
    config = config_of(folder)
    arch = read(config, where=str(folder / _CONFIG))
    files = Checkpoint(folder, block=block_size(config))
    files.check(arch)
    kind: torch.dtype = getattr(torch, wanted.tag)

    @lru_cache(maxsize=4)
    def make(weight: Weight) -> HostTensor:
        return to_host(read_weight(files, weight, dtype=kind, device=torch.device("cpu")))

    return Model(arch=arch, dtype=wanted, make=make, files=files)


def folder_digest(folder: Path) -> str:
    """Return `sha256:…` over the config and the safetensors files of a checkpoint folder, by name."""
    sha = hashlib.sha256()
    for file in sorted({file for pattern in _FILES for file in folder.glob(pattern)}):
        sha.update(f"{file.name} {file_digest(file)}\n".encode())
    return f"sha256:{sha.hexdigest()}"


def _find(name: str, digest: str) -> Path:
    folders = [Path(folder) for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]
    folders.append(builtin_cases() / "models")
    others = []
    for folder in (parent / name for parent in folders):
        if not (folder / _CONFIG).is_file():
            continue
        found = folder_digest(folder)
        if found == digest:
            return folder
        others.append(f"{folder} has {found}")
    wanted = f"checkpoint '{name}' with {digest}"
    if others:
        raise GoldenError(f"{wanted}: another one is here: {'; '.join(others)}. Copy the right folder")
    searched = ", ".join(map(str, folders))
    raise GoldenError(
        f"{wanted}: is not here (looked in {searched}). Copy the folder, and name the one above it in "
        f"{FOLDERS}"
    )
