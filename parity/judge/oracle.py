"""From a step and the exact inputs that it consumed to what each of its outputs may be.

One table from op id to class function. Does not compare.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from parity.backend.profile import Profile
from parity.case.dtype import DType, Kind, decode
from parity.case.op import Attr
from parity.case.tensor import HostTensor
from parity.judge.budget import Budget, Expected, Question
from parity.judge.classes import (
    arithmetic,
    attention,
    casts,
    convolution,
    decoder,
    divisions,
    experts,
    extremes,
    functions,
    fused,
    grouped,
    indexing,
    latent,
    moments,
    movement,
    norms,
    order,
    paged,
    pointwise,
    quantized,
    reduced,
    routing,
    sampling,
    scaled,
    softmax,
    sums,
    views,
)
from parity.judge.classes.computed import chains
from parity.judge.classes.paged import side_by_side, single_tokens

__all__ = ["CLASSES", "Answer", "answers", "flushing", "readings", "to_float64"]

CLASSES: dict[str, Callable[[Question], tuple[Expected, ...]]] = {
    "add": arithmetic.add,
    "add_rms_norm": fused.add_rms_norm,
    "addmm": sums.addmm,
    "amax": extremes.amax,
    "amin": extremes.amin,
    "arange": functions.arange,
    "argmax": order.argmax,
    "argsort": extremes.argsort,
    "as_strided": views.as_strided,
    "attention": attention.attention,
    "bincount": reduced.bincount,
    "block_scaled_mm": scaled.block_scaled_mm,
    "bmm": sums.matmul,
    "cast": casts.cast,
    "cat": movement.cat,
    "conv1d": convolution.conv1d,
    "conv2d": convolution.conv2d,
    "copy": movement.copy,
    "cos": functions.cos,
    "cumprod": moments.cumprod,
    "cumsum": sums.cumsum,
    "dequantised_mm": scaled.dequantised_mm,
    "div": arithmetic.div,
    "embedding": movement.embedding,
    "erf": pointwise.erf,
    "exp": pointwise.exp,
    "expand": views.expand,
    "experts": experts.experts,
    "expm1": functions.expm1,
    "far_rows": views.far_rows,
    "flip": views.flip,
    "floor_divide": divisions.floor_divide,
    "gated": decoder.gated,
    "gather": movement.gather,
    "gelu_erf": pointwise.gelu_erf,
    "gelu_tanh": pointwise.gelu_tanh,
    "group_norm": moments.group_norm,
    "grouped_mm": grouped.grouped_mm,
    "hstu_attention": fused.hstu_attention,
    "index": movement.index,
    "index_put": movement.index_put,
    "index_select": indexing.index_select,
    "int4_weight_linear": quantized.int4_weight_linear,
    "int8_linear": quantized.int8_linear,
    "int8_weight_linear": quantized.int8_weight_linear,
    "latent_attention": latent.latent_attention,
    "layer_norm": norms.layer_norm,
    "linear": sums.linear,
    "linspace": functions.linspace,
    "log": functions.log,
    "log1p": functions.log1p,
    "log_softmax": softmax.log_softmax,
    "logsumexp": softmax.logsumexp,
    "masked_fill": indexing.masked_fill,
    "masked_select": indexing.masked_select,
    "matmul": sums.matmul,
    "max": extremes.max_,
    "mean": sums.mean,
    "meshgrid": functions.meshgrid,
    "min": extremes.min_,
    "mul": arithmetic.mul,
    "negate_view": views.negate_view,
    "nonzero": indexing.nonzero,
    "norm": moments.norm,
    "norm_rotate": fused.norm_rotate,
    "one_hot": functions.one_hot,
    "pad": views.pad,
    "paged_attention": paged.paged_attention,
    "penalties": sampling.penalties,
    "pow": functions.pow_,
    "pow_scalar": functions.pow_scalar,
    "reciprocal": functions.reciprocal,
    "relu_squared": functions.relu_squared,
    "remainder": divisions.remainder,
    "repeat": views.repeat,
    "reshape": movement.reshape,
    "rms_norm": norms.rms_norm,
    "roll": views.roll,
    "rope": attention.rope,
    "rope_partial": functions.rope_partial,
    "rotate": decoder.rotate,
    "route": routing.route,
    "routed_mm": grouped.routed_mm,
    "rsqrt": pointwise.rsqrt,
    "scaled_embedding": decoder.scaled_embedding,
    "scaled_mm": scaled.scaled_mm,
    "scatter": indexing.scatter,
    "scatter_add": sums.scatter_add,
    "scatter_reduce": reduced.scatter_reduce,
    "searchsorted": indexing.searchsorted,
    "sigmoid": pointwise.sigmoid,
    "silu": pointwise.silu,
    "sin": functions.sin,
    "slice": movement.slice_,
    "slice_assign": movement.slice_assign,
    "slice_move": views.slice_move,
    "softcap": decoder.softcap,
    "softmax": softmax.softmax,
    "softplus": functions.softplus,
    "sort": order.sort,
    "split": views.split,
    "sqrt": functions.sqrt,
    "split_attention": attention.split_attention,
    "stack": views.stack,
    "sub": functions.sub,
    "sum": sums.sum_,
    "swiglu": pointwise.swiglu,
    "take_along_dim": indexing.take_along_dim,
    "tanh": pointwise.tanh,
    "top_p_mask": sampling.top_p_mask,
    "topk": order.topk,
    "tril": movement.tril,
    "tril_indices": functions.tril_indices,
    "triu": movement.triu,
    "triu_indices": movement.triu_indices,
    "trunc_divide": divisions.trunc_divide,
    "unique": indexing.unique,
    "var": moments.var,
    "weighted_rms_norm": norms.weighted_rms_norm,
    "where": movement.where,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the outputs may be under one declared reading of the inputs.

    `reading` is empty for the exact inputs, else the declaration that changed them.
    """

    expected: tuple[Expected, ...]
    reading: str = ""


def answers(
    op: str,
    inputs: Sequence[HostTensor | None],
    attrs: Mapping[str, Attr],
    profile: Profile,
    *,
    first: str = "",
) -> Iterator[Answer]:
    """Yield what a step may give: on its exact inputs, then on inputs as the profile says it reads them.

    `first` is the reading to begin with, where the op has it: order decides what is said, not whether
    anything explains a result. A declared input rounding (tf32, flushed subnormals) is emulated here
    rather than granted as a wider bound, which would hide faults of its size. Raises KeyError for an op
    without a class.
    """
    function = CLASSES[op]
    exact = tuple(None if t is None else to_float64(t) for t in inputs)
    question = Question(op=op, inputs=exact, raw=tuple(inputs), attrs=attrs, profile=profile)
    # The oracle meets infinities and NaN by design.
    with np.errstate(all="ignore"):
        for reading, expected in _expected(function, question, first):
            yield Answer(expected=expected, reading=reading)
        if not (inputs and inputs[0] is not None and question.dtype.is_float):
            return
        for reading, read in readings(question):
            changed = tuple(
                read(x, t.dtype) if x is not None and t is not None and t.dtype.is_float else x
                for x, t in zip(exact, inputs, strict=True)
            )
            for name, expected in _expected(function, dataclasses.replace(question, inputs=changed), ""):
                yield Answer(expected=expected, reading=f"{reading}; {name}" if name else reading)


def _expected(
    function: Callable[[Question], tuple[Expected, ...]], q: Question, first: str
) -> Iterator[tuple[str, tuple[Expected, ...]]]:
    """Yield what is expected for each way to store intermediates, then for two ways side by side.

    An engine has one kernel for single tokens and another for longer segments: each may store its own.
    """
    ways, single = dict(chains(q)), single_tokens(q)
    pairs = {} if single is None else {_in_words(*two): two for two in itertools.permutations(ways, 2)}

    @functools.cache
    def made(name: str) -> tuple[Expected, ...]:
        asked = dataclasses.replace(q, stored=ways[name])
        return flushing(asked, function(asked))

    for name in sorted([*ways, *pairs], key=lambda each: each != first):
        if name in ways:
            yield name, made(name)
            continue
        ours, theirs = (made(each)[0] for each in pairs[name])
        if single is not None and isinstance(ours, Budget) and isinstance(theirs, Budget):
            yield name, (side_by_side(ours, theirs, rows=single),)


def _in_words(one: str, other: str) -> str:
    return f"single tokens: {one or 'nothing stored'}; longer segments: {other or 'nothing stored'}"


def flushing(q: Question, expected: tuple[Expected, ...]) -> tuple[Expected, ...]:
    """Let results below the smallest normal be zero where the profile says that they are flushed."""
    if not (q.profile.flush_subnormals or (q.raw and q.declares("results_flushed"))):
        return expected
    return tuple(dataclasses.replace(e, flush=True) if isinstance(e, Budget) else e for e in expected)


def readings(q: Question) -> Iterator[tuple[str, Callable[[Tensor, DType], Tensor]]]:
    """Yield how a profile declares that an op reads its float inputs, other than exactly, and its name."""
    if q.declares("inputs_flushed"):
        yield "subnormal inputs read as zero", _flush
    rounded = q.profile.fact("inputs_rounded", op=q.op, dtype=q.dtype)
    if rounded:
        bits = int(rounded.value)
        yield f"inputs rounded to {bits} significand bits", lambda x, _: _round(x, bits)
        yield f"inputs truncated to {bits} significand bits", lambda x, _: _truncate(x, bits)


def _flush(x: Tensor, dtype: DType) -> Tensor:
    return torch.where(x.abs() < dtype.min_normal, torch.zeros_like(x).copysign(x), x)


def _round(x: Tensor, bits: int) -> Tensor:
    """Round float64 to `bits` significand bits, ties to even."""
    fraction, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(torch.ldexp(fraction, torch.tensor(bits))), exponent - bits)


def _truncate(x: Tensor, bits: int) -> Tensor:
    fraction, exponent = torch.frexp(x)
    return torch.ldexp(torch.trunc(torch.ldexp(fraction, torch.tensor(bits))), exponent - bits)


def to_float64(tensor: HostTensor) -> Tensor:
    """Return the exact values as float64 for floats, else as the integer or bool tensor they are."""
    array = np.asarray(tensor.array(), order="C").reshape(-1)
    # A signalling NaN is quieted by conversion, which numpy reports as invalid.
    with np.errstate(invalid="ignore"):
        if tensor.dtype.kind is not Kind.FLOAT:
            values: npt.NDArray[np.generic] = array.copy()
        elif tensor.dtype.bits >= 32 or tensor.dtype.name == "f16":
            values = array.astype(np.float64)
        elif tensor.dtype.name == "bf16":
            bits = array.astype(np.uint32)
            bits <<= 16
            values = bits.view(np.float32).astype(np.float64)
        else:
            values = decode(array, tensor.dtype)
    return torch.from_numpy(values.reshape(tensor.shape))
