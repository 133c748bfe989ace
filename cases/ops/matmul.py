"""Matrix products, written M x K x N with leading dimensions before them."""

from parity.case.case import Role, TensorSpec
from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, operands, rows, tensor

DISTS = ("normal", "heavy", "cancel", "positive", "small", "special")
LAYOUTS = ("contiguous", "transposed", "strided", "offset", "expanded")


def sensible(p: Params, shape: tuple[int, ...]) -> bool:
    """Whether the left operand has this layout and distribution."""
    return fits(p.layout, shape) and (p.dist != "special" or rows(shape) > 1)


def right(
    p: Params, name: str, shape: tuple[int, ...], *, contracted: int, role: Role = Role.INPUT
) -> TensorSpec:
    """The other operand: pairs that nearly cancel those of a `cancel` left one, same sign for `positive`."""
    layout = "contiguous" if p.layout == "expanded" or not fits(p.layout, shape) else p.layout
    if p.dist == "cancel":
        return tensor(name, p.dtype, shape, "paired", layout=layout, role=role, axis=contracted)
    dist = "positive" if p.dist == "positive" else "normal"
    return tensor(name, p.dtype, shape, dist, layout=layout, role=role)


@family(
    "ops/matmul",
    dtype=FLOATS,
    shape=(
        "1x1x1",
        "1x257x65",
        "17x63x129",
        "64x64x64",
        "128x127x33",
        "31x1025x63",
        "5x4096x31",
        "16x256x255",
        "0x8x4",
        "8x0x5",
    ),
    dist=DISTS,
    layout=LAYOUTS,
    allowed=lambda p: sensible(p, dims(p.shape)[:2]),
)
def matmul(p: Params) -> Parts:
    """A low-precision accumulator, a dropped tail tile in M, K or N, tf32 or bf16 input rounding,
    a stride that is ignored, K = 0 that is not zero."""
    m, k, n = dims(p.shape)
    a = tensor("a", p.dtype, (m, k), p.dist, layout=p.layout)
    b = right(p, "b", (k, n), contracted=-2)
    return one("matmul", a, b, result=(m, n))


@family(
    "ops/matmul_broadcast",
    dtype=FLOATS,
    shape=("33.33", "33.33x17", "17x33.33", "2x1x9x33.3x33x5", "4x1x64.1x64x15", "3x5x7.7x31", "7.2x7x3"),
    dist=("normal", "heavy", "special"),
    layout=("contiguous", "strided", "offset", "expanded"),
    allowed=lambda p: sensible(p, operands(p.shape)[0]),
)
def matmul_broadcast(p: Params) -> Parts:
    """Vectors, and batch dimensions that only one side has."""
    a_shape, b_shape = operands(p.shape)
    a = tensor("a", p.dtype, a_shape, p.dist, layout=p.layout)
    return one("matmul", a, right(p, "b", b_shape, contracted=-1))


@family(
    "ops/bmm",
    dtype=FLOATS,
    shape=(
        "1x1x1x1",
        "3x17x31x15",
        "8x1x128x65",
        "2x65x64x127",
        "16x15x257x2",
        "5x33x16x63",
        "4x8x0x8",
        "0x3x4x5",
    ),
    dist=DISTS,
    layout=LAYOUTS,
    allowed=lambda p: sensible(p, dims(p.shape)[:3]),
)
def bmm(p: Params) -> Parts:
    """A batch stride that is wrong, a batch of one taken for a matrix, an expanded batch read as dense."""
    batch, m, k, n = dims(p.shape)
    a = tensor("a", p.dtype, (batch, m, k), p.dist, layout=p.layout)
    b = right(p, "b", (batch, k, n), contracted=-2)
    return one("bmm", a, b, result=(batch, m, n))


@family(
    "ops/linear",
    dtype=FLOATS,
    shape=(
        "64x33",
        "1x64x64",
        "1x4096x257",
        "2x63x17",
        "7x257x129",
        "33x128x255",
        "128x65x16",
        "2x3x65x31",
        "0x16x8",
    ),
    bias=("no", "yes"),
    dist=DISTS,
    layout=LAYOUTS,
    allowed=lambda p: sensible(p, dims(p.shape)[:-1]),
)
def linear(p: Params) -> Parts:
    """One row taking another kernel than many, a bias rounded into a low-precision sum, a weight
    whose transpose is taken twice."""
    *tokens, k, n = dims(p.shape)
    x = tensor("x", p.dtype, (*tokens, k), p.dist, layout=p.layout)
    w = right(p, "w", (n, k), contracted=-1, role=Role.WEIGHT)
    bias = tensor("bias", p.dtype, (n,), role=Role.WEIGHT) if p.bias == "yes" else None
    return one("linear", x, w, bias, result=(*tokens, n))


@family(
    "ops/addmm",
    dtype=FLOATS,
    shape=("1x1x1", "17x65x31", "64x128x63", "33x257x16", "8x0x5", "0x8x4"),
    addend=("matrix", "row"),
    alpha=("1", "-0.5"),
    beta=("1", "0", "2.5"),
    dist=DISTS,
    layout=LAYOUTS,
    allowed=lambda p: sensible(p, dims(p.shape)[:2]),
)
def addmm(p: Params) -> Parts:
    """alpha or beta ignored, beta = 0 that still adds, a row that is not broadcast."""
    m, k, n = dims(p.shape)
    c = tensor("c", p.dtype, (m, n) if p.addend == "matrix" else (n,))
    a = tensor("a", p.dtype, (m, k), p.dist, layout=p.layout)
    b = right(p, "b", (k, n), contracted=-2)
    return one("addmm", c, a, b, result=(m, n), alpha=float(p.alpha), beta=float(p.beta))
