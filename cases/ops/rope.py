"""Rotary position embedding, x written B x H x T x D."""

from parity.case.family import FLOATS, Params, Parts, dims, family, fits, one, tensor


@family(
    "ops/rope",
    dtype=FLOATS,
    shape=("1x1x1x2", "2x4x17x64", "1x3x33x128", "1x8x1x80", "2x2x65x32", "1x2x127x64", "1x2x0x16"),
    pairs=("half", "interleaved"),
    first=("0", "1", "4097", "131071"),
    base=("10000", "500000", "1000000"),
    positions=("i64", "i32"),
    dist=("normal", "heavy", "small", "special"),
    layout=("contiguous", "heads", "strided", "offset", "expanded"),
    allowed=lambda p: fits(p.layout, dims(p.shape)),
)
def rope(p: Params) -> Parts:
    """Half-split for interleaved, tables kept in bf16, another base, positions that start at 1, an
    angle at a large position that lost its fraction."""
    x = tensor("x", p.dtype, dims(p.shape), p.dist, layout=p.layout)
    positions = tensor("positions", p.positions, x.shape[-2:-1], "range", start=int(p.first))
    return one("rope", x, positions, result=x.shape, base=float(p.base), interleaved=p.pairs == "interleaved")
