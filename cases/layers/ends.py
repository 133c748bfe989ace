"""What stands before and after the layers: embedding, norm, head."""

from parity.case.decoder import Draft
from parity.case.family import FLOATS, Params, Parts, family


@family(
    "layers/embed",
    dtype=FLOATS,
    tokens=("1", "17", "33"),
    size=("67x32", "257x48"),
    scale=("1", "root"),
    dist=("normal", "heavy"),
)
def embed(p: Params) -> Parts:
    """The last row out of reach, a row beside the right one, Gemma's scale left out or not rounded
    to the type of the table."""
    vocab, hidden = (int(n) for n in p.size.split("x"))
    draft = Draft(dtype=p.dtype, dist=p.dist)
    draft.begin(f"0+{p.tokens}")
    table = draft.weight("embed.weight", (vocab, hidden))
    tokens = draft.input("tokens", "i64", (draft.tokens,), "index", high=vocab)
    draft.step(
        "scaled_embedding", table, tokens, name="embed", scale=hidden**0.5 if p.scale == "root" else 1.0
    )
    return draft.parts()


@family(
    "layers/head",
    dtype=FLOATS,
    tokens=("1", "17", "33"),
    size=("67x32", "257x48"),
    softcap=("none", "3"),
    rows=("last", "all"),
    dist=("normal", "heavy"),
)
def head(p: Params) -> Parts:
    """Scores of another row than the last one, logits that are capped twice or not at all, a last
    block of the vocabulary that is not computed."""
    vocab, hidden = (int(n) for n in p.size.split("x"))
    draft = Draft(dtype=p.dtype, dist=p.dist)
    draft.begin(f"0+{p.tokens}")
    x = draft.input("x", p.dtype, (draft.tokens, hidden), p.dist)
    if p.rows == "last":
        last = draft.input("rows", "i64", (1,), "constant", value=draft.tokens - 1)
        x = draft.step("index", x, last, name="rows.taken")
    offset = 0.0 if p.softcap == "none" else 1.0
    logits = draft.linear("head", draft.norm("norm", x, hidden, eps=1e-6, offset=offset), (vocab, hidden))
    if p.softcap != "none":
        draft.step("softcap", logits, name="head.softcap", cap=float(p.softcap))
    return draft.parts()


@family(
    "layers/norm",
    dtype=FLOATS,
    shape=("1x32", "17x33", "16x5x8"),
    way=("rounds_first", "offset"),
    eps=("1e-05", "1e-06"),
    dist=("normal", "heavy", "small", "special"),
)
def norm(p: Params) -> Parts:
    """A weight with or without its offset, rounded on the wrong side of it, an epsilon that is
    another model's, a mean over the wrong dimension of q and k, a NaN that leaks into the next row."""
    shape = tuple(int(n) for n in p.shape.split("x"))
    draft = Draft(dtype=p.dtype)
    x = draft.input("x", p.dtype, shape, p.dist)
    draft.norm("norm", x, shape[-1], eps=float(p.eps), offset=1.0 if p.way == "offset" else 0.0)
    return draft.parts()
