"""From scores to the tokens that may be drawn."""

from parity.case.family import FLOATS, Params, Parts, dims, family, one, rows, tensor


@family(
    "ops/top_p_mask",
    dtype=FLOATS,
    shape=("5", "3x65", "17x257", "4x4099"),
    threshold=("0.01", "0.5", "0.9", "1"),
)
def top_p_mask(p: Params) -> Parts:
    """The token that crosses the threshold dropped, or the one after it kept; no token at all where the
    first one crosses it; sums kept in 16 bits."""
    return one(
        "top_p_mask", tensor("p", p.dtype, dims(p.shape), "probabilities"), threshold=float(p.threshold)
    )


# repetition, frequency, presence
PENALTIES = {
    "none": (1.0, 0.0, 0.0),
    "repetition": (1.3, 0.0, 0.0),
    "frequency": (1.0, 0.7, 0.0),
    "presence": (1.0, 0.0, 1.5),
    "all": (1.1, 0.4, -0.3),
}


@family(
    "ops/penalties",
    dtype=FLOATS,
    shape=("1x65.9", "5x129.200", "3x2050.64", "4x17.0"),
    rule=tuple(PENALTIES),
    dist=("normal", "heavy", "small", "special"),
    allowed=lambda p: p.dist != "special" or rows(dims(p.shape.split(".")[0])) > 1,
)
def penalties(p: Params) -> Parts:
    """A negative score divided, which raises it; padding counted as a token; each occurrence punished by
    repetition; frequency for presence."""
    of, length = p.shape.split(".")
    batch, vocabulary = dims(of)
    repetition, frequency, presence = PENALTIES[p.rule]
    logits = tensor("logits", p.dtype, (batch, vocabulary), p.dist)
    tokens = tensor("tokens", "i64", (batch, int(length)), "index", high=vocabulary + 1)
    return one(
        "penalties",
        logits,
        tokens,
        result=logits.shape,
        repetition=repetition,
        frequency=frequency,
        presence=presence,
    )
