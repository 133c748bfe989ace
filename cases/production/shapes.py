"""Matrices, vocabularies and contexts of large models as they are: minutes, and gigabytes, of work.

What is too dear to be judged element by element is judged by rows and by projections of all of it.
"""

from parity.case.case import Role
from parity.case.family import Params, Parts, dims, family, one, tensor

DTYPES = ("bf16", "f16", "f32")


@family(
    "production/linear_whole",
    large=True,
    dtype=DTYPES,
    shape=("64x28672x1024", "64x8192x3584", "16x1024x151936"),
    dist=("normal", "heavy"),
)
def linear_whole(p: Params) -> Parts:
    """An eighth of a large matrix: a tile left out among thousands, a split of K whose parts are stored."""
    t, k, n = dims(p.shape)
    w = tensor("w", p.dtype, (n, k), role=Role.WEIGHT)
    return one("linear", tensor("x", p.dtype, (t, k), p.dist), w, None)


@family(
    "production/attention_context",
    large=True,
    dtype=DTYPES,
    shape=("16x32768x8.2", "1x32768x32.8", "256x8192x4.4"),
    dist=("normal", "small"),
)
def attention_context(p: Params) -> Parts:
    """A chunk of queries at the end of a context of 32,768 keys: a maximum that is not carried along."""
    (queries, keys, heads), (groups,) = map(dims, p.shape.split("."))
    q = tensor("q", p.dtype, (1, heads, queries, 128), p.dist)
    k, v = (tensor(name, p.dtype, (1, groups, keys, 128)) for name in ("k", "v"))
    return one("attention", q, k, v, None, causal=True, window=None, scale=None)


@family(
    "production/log_softmax_vocabulary",
    large=True,
    dtype=DTYPES,
    shape=("64x151936",),
    dist=("normal", "heavy"),
)
def log_softmax_vocabulary(p: Params) -> Parts:
    """A sum over a vocabulary."""
    return one("log_softmax", tensor("x", p.dtype, dims(p.shape), p.dist), dim=-1)


@family(
    "production/argmax_vocabulary", large=True, dtype=DTYPES, shape=("32x151936",), dist=("normal", "ties")
)
def argmax_vocabulary(p: Params) -> Parts:
    """The best of a vocabulary in blocks, of which one is forgotten; ties across blocks."""
    return one("argmax", tensor("x", p.dtype, dims(p.shape), p.dist), dim=-1, keepdim=False, result=(32,))


@family("production/embedding_vocabulary", large=True, dtype=DTYPES, ids=("i64", "i32"))
def embedding_vocabulary(p: Params) -> Parts:
    """Rows whose byte offset is beyond 2^30."""
    table = tensor("table", p.dtype, (151936, 2048), "bits", role=Role.WEIGHT)
    return one("embedding", table, tensor("ids", p.ids, (512,), "index", high=151936))
