"""torch's own op database: which ops it has, and for each dtype the calls that torch tests it with.

The database is internal to torch (`torch.testing._internal`), so it may be absent or have moved: then
UsageError says so. Its sample functions draw from global generators: they are seeded as torch's own
tests seed them, and their states are put back. Runs no op.

    for sample in samples(database()["add"], dtype="f32", inputs="samples"): ...
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import random
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_leaves

from parity.errors import UsageError

__all__ = [
    "DTYPES",
    "KINDS",
    "PREFIX",
    "NoSamples",
    "Sample",
    "database",
    "function_of",
    "is_promised",
    "listing",
    "sample_digest",
    "samples",
]

_MODULE = "torch.testing._internal.common_methods_invocations"
# Begins the name of a call whose function torch itself does not list: `opinfo.masked.sum`.
PREFIX = "opinfo."
DTYPES: Mapping[str, torch.dtype] = {
    "f32": torch.float32,
    "bf16": torch.bfloat16,
    "f16": torch.float16,
    "i64": torch.int64,
    "i32": torch.int32,
    "bool": torch.bool,
}
KINDS = ("samples", "noncontiguous", "errors")
_TORCHS_OWN = 1234  # the seed of torch's own tests
_KEPT = 48  # cases whose samples stay in memory between choosing a case and judging it


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sample:
    """One call of an op. `error` is the type of exception that torch documents, where it must raise.

    `digest` is of every argument: values, shapes, strides and numbers. `name` counts by it.
    """

    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    error: str = ""
    digest: str = ""

    def tensors(self) -> Iterator[Tensor]:
        """Yield the tensors among the arguments, each once."""
        leaves = (x for x in tree_leaves((self.args, dict(self.kwargs))) if isinstance(x, Tensor))
        yield from {id(x): x for x in leaves}.values()


class NoSamples(UsageError):
    """torch cannot make the samples of an op; the text says why."""


@functools.cache
def database() -> Mapping[str, Any]:
    """Return every OpInfo by its full name. Raises UsageError where this torch has no such database."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = importlib.import_module(_MODULE).op_db
        return {op.full_name: op for op in found}
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("torch"):
            raise UsageError(
                f"opinfo: torch's op database needs the package '{error.name}', which is not installed: "
                "pip install 'chip-parity[opinfo]'"
            ) from None
        raise _moved(error) from None
    except (ImportError, AttributeError) as error:
        raise _moved(error) from None
    finally:
        # The module forbids every later change of torch.backends, which belongs to whoever opens a device.
        torch.backends.disable_global_flags.__globals__["__allow_nonbracketed_mutation_flag"] = True


def _moved(error: Exception) -> UsageError:
    return UsageError(
        f"opinfo: torch {torch.__version__} has no op database where torch 2.5 to 2.13 have it ({error}). "
        "It is internal to torch and may move: every other suite is unaffected"
    )


def function_of(name: str) -> Callable[..., Any] | None:
    """Return the function of an op by the name that a call has, `opinfo.…`; None where there is none."""
    op = database().get(name.removeprefix(PREFIX))
    return None if op is None else op.op


def is_promised(op: Any, inputs: str, dtype: str) -> bool:
    """Whether torch holds an op to its error inputs, or to strided ones: its own test may expect to fail."""
    test = "test_errors" if inputs == "errors" else "test_noncontiguous_samples"
    where: tuple[Any, ...] = ("TestCommon", test, "cpu", DTYPES[dtype], {})
    return not any(each.is_active(*where) for each in op.decorators if hasattr(each, "is_active"))


def listing() -> dict[str, list[dict[str, str]]]:
    """Return the parameters of every case by the op's name, in torch's order."""
    found: dict[str, list[dict[str, str]]] = {}
    for op in database().values():
        variant = {"variant": op.variant_test_name} if op.variant_test_name else {}
        rows = found.setdefault(op.name, [])
        for name, dtype in DTYPES.items():
            if dtype in op.dtypes:
                rows += [{"dtype": name, "inputs": kind, **variant} for kind in KINDS[:2]]
        if op.error_inputs_func is not None and torch.float32 in op.dtypes:
            rows.append({"dtype": "f32", "inputs": "errors", **variant})
    return {name: rows for name, rows in found.items() if rows}


@functools.lru_cache(maxsize=_KEPT)
def samples(full_name: str, *, dtype: str, inputs: str) -> tuple[Sample, ...]:
    """Return the calls of one case, the same ones each time. Raises UsageError for an op that is not there.

    Everyone who asks shares the tensors: whoever lets an op write to them says `samples.cache_clear()`.
    """
    op = database().get(full_name)
    if op is None:
        raise UsageError(f"opinfo: torch {torch.__version__} has no op '{full_name}' in its database")
    with _seeded():
        try:
            # Some are made in the order of a set of texts, which is another one in each process.
            drawn = sorted(_drawn(op, DTYPES[dtype], inputs), key=lambda sample: sample.digest)
            return tuple(replace(sample, name=f"{n:04d}") for n, sample in enumerate(drawn))
        except Exception as error:  # the code is torch's and internal, and each failure is a reason
            text = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise NoSamples(
                f"opinfo: torch's samples of {full_name} in {dtype} cannot be made: {text}"
            ) from error


def _drawn(op: Any, dtype: torch.dtype, inputs: str) -> Iterator[Sample]:
    if inputs == "errors":
        for each in op.error_inputs_func(op, "cpu"):
            yield _sample(each.sample_input, error=_names(each.error_type))
        return
    for each in _each(iter(op.sample_inputs_func(op, "cpu", dtype, False))):
        yield _sample(each.noncontiguous() if inputs == "noncontiguous" else each)


def _each(given: Iterator[Any]) -> Iterator[Any]:
    """Yield what torch's own tests get: they seed every generator before each sample, by the same number.

    Theirs seeds CUDA's as well, which costs more than most samples and which nothing here draws from.
    """
    while True:
        _seed(_TORCHS_OWN)
        try:
            yield next(given)
        except StopIteration:
            return


def _sample(given: Any, *, error: str = "") -> Sample:
    args, kwargs = (given.input, *given.args), dict(given.kwargs)
    sha = hashlib.sha256(error.encode())
    for name, leaf in tree_flatten_with_path((args, kwargs))[0]:
        sha.update(f"\n{keystr(name)} ".encode() + _described(leaf))
    return Sample(name="", args=args, kwargs=kwargs, error=error, digest=sha.hexdigest())


def _names(kind: Any) -> str:
    kinds: Iterable[type] = kind if isinstance(kind, tuple) else (kind,)
    return " or ".join(each.__name__ for each in kinds)


@contextmanager
def _seeded() -> Iterator[None]:
    """Seed every generator that a sample function may draw from, and put their states back afterwards.

    Under deterministic algorithms memory that a sample leaves unwritten holds NaN, in every process alike.
    """
    was = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - torch's samples use it
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _seed(_TORCHS_OWN)
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(was, warn_only=warned)
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002 - see above


def _seed(number: int) -> None:
    torch.default_generator.manual_seed(number)
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - see above


@functools.cache
def sample_digest(full_name: str, *, dtype: str, inputs: str) -> str:
    """Return `sha256:…` over every argument of every call of a case: values, shapes, strides and numbers."""
    try:
        digests = [sample.digest for sample in samples(full_name, dtype=dtype, inputs=inputs)]
    except NoSamples as reason:  # which is what the case's one step says
        digests = [str(reason)]
    return f"sha256:{hashlib.sha256(chr(10).join(digests).encode()).hexdigest()}"


def _described(leaf: Any) -> bytes:
    if isinstance(leaf, Tensor):
        head = f"{leaf.dtype}{list(leaf.shape)}{leaf.layout}"
        if leaf.layout is not torch.strided or leaf.device.type != "cpu":
            return f"{head}{leaf.device.type}".encode()
        dense = leaf.detach().resolve_conj().resolve_neg().contiguous()
        return f"{head}{leaf.stride()}".encode() + _bytes(dense)
    plain = leaf is None or isinstance(
        leaf, (bool, int, float, complex, str, torch.dtype, torch.device, slice)
    )
    # What has an address in its text is named by its type: its state is not known.
    return f"{type(leaf).__name__}:{leaf if plain else ''}".encode()


def _bytes(dense: Tensor) -> bytes:
    # A dimension of one element may have any stride and still count as contiguous.
    flat = dense.reshape(-1).clone(memory_format=torch.contiguous_format)
    return bytes(flat.view(torch.uint8).numpy()) if dense.numel() else b""
