"""Weights of a checkpoint as inputs of a case: found by name, believed by digest.

They are looked for in the user's folders, then among the models that ship with the cases. A
recording never holds them, so every host that runs or judges such a case needs the same file.
Reads the safetensors container (a JSON header, then raw little-endian elements), in which bf16
and fp8 have no numpy type; does not know what a model is.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from parity.case.builtin import builtin_cases
from parity.case.draw import Distribution, Draw, Words
from parity.case.dtype import DTYPES, DType, Kind, decode, encode
from parity.errors import GoldenError, UsageError

__all__ = ["CHECKPOINT", "FOLDERS", "file_digest"]

# Where checkpoints are looked for first: folders, separated as in PATH.
FOLDERS = "PARITY_WEIGHTS"
_TAGS = {
    "F64": "f64",
    "F32": "f32",
    "F16": "f16",
    "BF16": "bf16",
    "F8_E4M3": "e4m3fn",
    "F8_E5M2": "e5m2",
    "I64": "i64",
    "I32": "i32",
    "I16": "i16",
    "I8": "i8",
    "U8": "u8",
    "BOOL": "bool",
}
_LARGEST_HEADER = 100_000_000  # bytes, as the format's own reader allows


def _checkpoint(draw: Draw) -> Words:
    """The elements of one tensor of a safetensors file, bit for bit.

    `stored` names the type that the file has where the case's is another: then each element is
    rounded once to the case's type, as an engine does that loads the weights in it.

    Raises GoldenError when the file is not here or is another one: a host without the weights can
    say nothing of the device.
    """
    name, digest, tensor = (draw.option(key, "") for key in ("file", "digest", "tensor"))
    path = _find(name, digest, tensor)
    header, start = _header(path)
    entry = header.get(tensor)
    if not isinstance(entry, dict):
        raise GoldenError(f"{path}: has no tensor '{tensor}': the case names one that was never there")
    stored, declared = _TAGS.get(str(entry.get("dtype")), "?"), draw.option("stored", draw.dtype.name)
    if (stored, entry.get("shape")) != (declared, list(draw.shape)):
        raise GoldenError(
            f"{path}: tensor '{tensor}' is {stored}{entry.get('shape')}, but the case declares "
            f"{declared}{list(draw.shape)}: correct the case"
        )
    of = DTYPES[stored]
    raw = _bytes(path, start, entry)
    size = draw.numel * of.itemsize
    if len(raw) != size:
        raise GoldenError(f"{path}: tensor '{tensor}' holds {len(raw):,} bytes, not {size:,}")
    codes = np.frombuffer(raw, dtype=f"<u{of.itemsize}").reshape(draw.shape)
    return (codes if of == draw.dtype else _rounded(codes, of, draw.dtype)).astype(np.uint64)


def _rounded(codes: npt.NDArray[np.unsignedinteger], of: DType, to: DType) -> npt.NDArray[np.unsignedinteger]:
    if not of.is_float or not to.is_float:
        raise UsageError(f"dist 'checkpoint' rounds floats to floats, not {of} to {to}")
    return encode(decode(codes, of), to)


def _bytes(path: Path, start: int, entry: dict[str, Any]) -> bytes:
    match entry.get("data_offsets"):
        case [int(begin), int(end)] if 0 <= begin <= end <= path.stat().st_size - start:
            with path.open("rb") as file:
                file.seek(start + begin)
                return file.read(end - begin)
        case offsets:
            raise GoldenError(
                f"{path}: holds no bytes {offsets}: it was cut short before its digest was taken"
            )


def _find(name: str, digest: str, tensor: str) -> Path:
    folders = [Path(folder) for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]
    folders.append(builtin_cases() / "models")
    others = []
    for path in (folder / name for folder in folders):
        if not path.is_file():
            continue
        found = file_digest(path)
        if found == digest:
            return path
        others.append(f"{path} has {found}")
    wanted = f"tensor '{tensor}' of weights '{name}' with {digest}"
    if others:
        raise GoldenError(f"{wanted}: other weights are here: {'; '.join(others)}. Copy the right file")
    searched = ", ".join(map(str, folders))
    raise GoldenError(
        f"{wanted}: is not here (looked in {searched}). Copy the file and name its folder in {FOLDERS}"
    )


def file_digest(path: Path) -> str:
    """Return `sha256:…` of a file, remembered until the file changes."""
    status = path.stat()
    return _digest(path, status.st_size, status.st_mtime_ns)


@lru_cache
def _digest(path: Path, size: int, mtime_ns: int) -> str:
    del size, mtime_ns  # part of the key alone
    with path.open("rb") as file:
        sha = hashlib.sha256()
        while chunk := file.read(1 << 20):
            sha.update(chunk)
    return f"sha256:{sha.hexdigest()}"


def _header(path: Path) -> tuple[dict[str, Any], int]:
    # The whole file has the digest that the case names: what is wrong here was so when it was made.
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(size)) if size <= _LARGEST_HEADER else None
        except ValueError:
            header = None
    if not isinstance(header, dict):
        raise GoldenError(f"{path}: is no safetensors file: the case names a file of another format")
    return header, 8 + size


_TEXT = (str,)
CHECKPOINT = {
    "checkpoint": Distribution(
        make=_checkpoint,
        kinds=frozenset(Kind),
        options={"file": _TEXT, "digest": _TEXT, "tensor": _TEXT, "stored": _TEXT},
        required=("file", "digest", "tensor"),
    )
}
