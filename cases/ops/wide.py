"""64-bit numbers that need all their bits: what a device without 64-bit arithmetic loses."""

from parity.case.family import Params, Parts, dims, family, fits, one, operands, tensor

# Above 2^53 float64 holds no odd integer. Below a tie of float32 at 2^60 and above it, float64
# rounds to the tie itself, and rounding again goes to even.
START = {"beyond_f64": 2**53 - 7, "beyond_f32": 2**60 + 2**36 - 16}


@family(
    "ops/matmul_f64",
    shape=("1x1.1x1", "17x63.63x33", "5x129.129x31", "3x7x16.3x16x9"),
    bits=("20", "22"),
    layout=("contiguous", "transposed", "strided"),
    allowed=lambda p: fits(p.layout, operands(p.shape)[0]),
)
def matmul_f64(p: Params) -> Parts:
    """float64 that is computed as float32, or in two halves of it. Multiples of 1/2 so few that no
    partial sum is rounded: the result is exact, whatever the order."""
    a, b = (
        tensor(name, "f64", shape, "ties", distinct=2 ** int(p.bits))
        for name, shape in zip("ab", operands(p.shape), strict=True)
    )
    return one("matmul", a, b)


@family(
    "ops/order_i64",
    op=("topk", "sort", "argmax"),
    shape=("257", "7x33"),
    dist=("bits", "beyond_f64"),
    layout=("contiguous", "strided"),
)
def order_i64(p: Params) -> Parts:
    """int64 compared by its low 32 bits, or as a float in which neighbours are equal."""
    of = dims(p.shape)
    if p.dist == "bits":
        x = tensor("x", "i64", of, "bits", layout=p.layout)
    else:
        x = tensor("x", "i64", of, "range", layout=p.layout, start=START[p.dist])
    if p.op == "argmax":
        return one("argmax", x, dim=-1, keepdim=False)
    if p.op == "topk":
        return one("topk", x, k=5, dim=-1, largest=True)
    return one("sort", x, dim=-1, descending=True, stable=True)


@family(
    "ops/cast_wide",
    dtype=("f32", "f64", "i64"),
    to=("f32", "f64", "i64"),
    dist=("bits", "heavy", "beyond_f64", "beyond_f32"),
    layout=("contiguous", "strided"),
    allowed=lambda p: (
        p.dtype != p.to
        and (p.dtype, p.to) != ("f32", "i64")
        and (p.dist != "heavy" or p.dtype != "i64")
        and (p.dist not in START or p.dtype == "i64")
    ),
)
def cast_wide(p: Params) -> Parts:
    """int64 that goes through 32 bits or through float64, which rounds twice; float64 that was
    float32 all along."""
    options = {"start": START[p.dist]} if p.dist in START else {}
    x = tensor("x", p.dtype, (5, 33), "range" if options else p.dist, layout=p.layout, **options)
    return one("cast", x, to=p.to)
