"""The ops that a decoder is made of, as its code divides it: rows are tokens, heads are [T, H, D].

Part of the one table in `op`. Where models differ in which intermediate they round to the type of
their tensors, both are right unless an attribute says which. Does not hold any implementation.

Shapes: T tokens, H query heads, G key heads, D their size, E that of values, N slots of a pool.
copy                x of any shape, also to or from memory that is laid out in another way.
reshape             attribute shape as `2x3x8`, or `scalar`; row-major.
weighted_rms_norm   x [..., K], g [K].
rotate              x [T, H, D], cos and sin [T, R]. Half-split pairs i with i + R, interleaved 2i with
                    2i + 1; the dimensions from 2R on are kept.
gated               x [..., 2F]: the gate first. activation: silu, gelu or gelu_pytorch_tanh.
scaled_embedding    table [V, K], ids int64 [T].
paged_attention     q [T, H, D], keys [N, G, D], values [N, G, E], slots int64 [sum of context + length],
                    segments int64 [n, 3]: start row, length, context. A segment owns the rows from
                    start on and the next context + length entries of slots; its query j stands at
                    position context + j and sees that key and those before it, with a window w the
                    last w of them. y [T, H, E].
latent_attention    q [T, H, nope + rope], latents [N, L + rope] (latent, then the key part that heads
                    share), w [H (nope + E), L], slots and segments as above. y [T, H, E].
route               x [T, K], w [experts, K], bias [experts] added for choosing only. A group of experts
                    counts its group_best best ones, only the top_groups best are chosen from. wide
                    computes the product in f32. weights f32 [T, top] and ids [T, top], best first
                    by convention; the order of both together is free.
experts             x [T, K], weights [T, top], chosen int64 [T, top], up [experts, 2F, K] (gate first),
                    down [experts, K, F]. y [T, K].
"""

from __future__ import annotations

from parity.case.op_entry import Op

__all__ = ["DECODER"]

_INT, _FLOAT, _BOOL, _STR = (int,), (int, float), (bool,), (str,)
_NONE = type(None)

DECODER: tuple[Op, ...] = (
    Op(id="copy", formula="x, moved bit for bit", inputs=("x",), exact=True),
    Op(id="reshape", formula="x in another shape", inputs=("x",), attrs={"shape": _STR}, exact=True),
    Op(
        id="weighted_rms_norm",
        formula="x / sqrt(mean(x^2) + eps), rounded if rounds_first, times (g + offset)",
        inputs=("x", "g"),
        compute=("f32",),
        attrs={"eps": _FLOAT, "offset": _FLOAT, "rounds_first": _BOOL},
    ),
    Op(
        id="rotate",
        formula="pairs of the first 2R dimensions turned by the angles of cos and sin, the rest kept",
        inputs=("x", "cos", "sin"),
        compute=("f32",),
        attrs={"interleaved": _BOOL},
    ),
    Op(
        id="gated",
        formula="activation(gate) up for x = [gate, up]",
        inputs=("x",),
        compute=("f32",),
        attrs={"activation": _STR},
    ),
    Op(id="softcap", formula="cap tanh(x / cap)", inputs=("x",), compute=("f32",), attrs={"cap": _FLOAT}),
    Op(
        id="scaled_embedding",
        formula="table[ids] times scale, which is rounded to the table's type",
        inputs=("table", "ids"),
        attrs={"scale": _FLOAT},
    ),
    Op(
        id="paged_attention",
        formula="per segment softmax(softcap(scale q k^T), causal, in the window) v, k and v in slots",
        inputs=("q", "keys", "values", "slots", "segments"),
        compute=("f32",),
        attrs={"scale": _FLOAT, "window": (int, _NONE), "softcap": (int, float, _NONE)},
    ),
    Op(
        id="latent_attention",
        formula="paged_attention over the keys and values that w makes of latents; absorbed: w in q and y",
        inputs=("q", "latents", "w", "slots", "segments"),
        compute=("f32",),
        attrs={"nope": _INT, "scale": _FLOAT, "absorbed": _BOOL},
    ),
    Op(
        id="route",
        formula="the top experts of each row of x w^T by score (+ bias), and their scores times scale",
        inputs=("x", "w", "bias?"),
        outputs=("weights", "chosen"),
        compute=("f32",),
        attrs={
            "top": _INT,
            "scores": _STR,
            "groups": _INT,
            "top_groups": _INT,
            "group_best": _INT,
            "normalise": _BOOL,
            "scale": _FLOAT,
            "wide": _BOOL,
        },
    ),
    Op(
        id="experts",
        formula="sum over chosen of weight down (activation(gate) up), gate and up of x up^T",
        inputs=("x", "weights", "chosen", "up", "down"),
        compute=("f32",),
        attrs={"activation": _STR},
    ),
)
