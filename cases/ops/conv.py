"""Convolutions, written N x C x extents.O x taps; w has the channels of one group."""

from parity.case.case import Role
from parity.case.family import FLOATS, Params, Parts, family, one, operands, tensor

DISTS = ("normal", "heavy", "cancel", "positive", "special")
GROUPS = ("1", "2", "depthwise")


def groups_of(p: Params) -> int:
    """Depthwise: a group of its own for each channel."""
    channels = operands(p.shape)[0][1]
    return channels if p.groups == "depthwise" else int(p.groups)


def sensible(p: Params) -> bool:
    """Groups divide the channels of both sides; what cancels, cancels within a group."""
    (_, channels, *_), (out, *_) = operands(p.shape)
    groups = groups_of(p)
    return (
        channels % groups == out % groups == 0
        and (p.groups == "1" or channels > 1)
        and (p.dist != "cancel" or channels // groups % 2 == 0)
    )


def convolution(op: str, p: Params, **attrs: int | bool) -> Parts:
    x_shape, (out, *taps) = operands(p.shape)
    groups = groups_of(p)
    options = {"axis": 1} if p.dist == "cancel" else {}
    x = tensor("x", p.dtype, x_shape, p.dist, layout=p.layout, **options)
    w = tensor(
        "w",
        p.dtype,
        (out, x_shape[1] // groups, *taps),
        {"cancel": "paired", "positive": "positive"}.get(p.dist, "normal"),
        role=Role.WEIGHT,
        **options,
    )
    bias = tensor("bias", p.dtype, (out,), role=Role.WEIGHT) if p.bias == "yes" else None
    dilation = int(p.dilation)
    return one(op, x, w, bias, stride=int(p.stride), dilation=dilation, groups=groups, **attrs)


@family(
    "ops/conv1d",
    dtype=FLOATS,
    shape=("1x1x9.1x3", "2x4x33.6x5", "1x80x65.64x3", "3x16x17.16x4", "1x96x31.96x1"),
    groups=GROUPS,
    stride=("1", "2"),
    padding=("0", "1", "causal"),
    dilation=("1", "3"),
    bias=("no", "yes"),
    dist=DISTS,
    layout=("contiguous", "transposed", "strided"),
    allowed=sensible,
    also=[
        {
            "dtype": dtype,
            "shape": "3x16x17.16x4",
            "groups": "depthwise",
            "stride": "1",
            "padding": "causal",
            "dilation": "1",
            "bias": "yes",
            "dist": "normal",
            "layout": "transposed",
        }
        for dtype in FLOATS
    ],
)
def conv1d(p: Params) -> Parts:
    """A causal convolution that sees the next element or is shifted by one, taps in reverse, a group
    that reads its neighbour's channels, padding that is not zero."""
    causal = p.padding == "causal"
    return convolution("conv1d", p, padding=0 if causal else int(p.padding), causal=causal)


@family(
    "ops/conv2d",
    dtype=FLOATS,
    shape=("1x1x5x5.1x3x3", "2x4x9x17.6x3x5", "1x32x14x13.32x3x3", "2x3x28x28.24x14x14", "1x64x7x9.48x1x1"),
    groups=GROUPS,
    stride=("1", "2", "14"),
    padding=("0", "1"),
    dilation=("1", "2"),
    bias=("no", "yes"),
    dist=DISTS,
    layout=("contiguous", "transposed", "strided"),
    allowed=lambda p: (
        sensible(p)
        and (p.stride == "14") == (p.shape == "2x3x28x28.24x14x14")
        and not (p.stride == "14" and p.dilation == "2")
    ),
)
def conv2d(p: Params) -> Parts:
    """Height and width exchanged, a stride or dilation that is ignored, Winograd's larger error where
    a sum of products is expected, patches of an image that overlap, channels last read as first."""
    return convolution("conv2d", p, padding=int(p.padding))
