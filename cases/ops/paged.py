"""Attention over pages and over latents.

A plan names the requests of a step as context+length, see `parity/case/dist_pages.py`.
"""

from parity.case.case import Role, TensorSpec
from parity.case.dist_pages import spans
from parity.case.family import FLOATS, Params, Parts, family, one, tensor

PLANS = ("0+1", "0+17", "33+1", "5+12", "16+1.0+9.3+4", "64+1.0+1.7+1.31+1", "5+0.0+3", "0+0")


def number(text: str) -> float | None:
    return None if text == "none" else float(text)


def pages(plan: str) -> tuple[str, int, TensorSpec, TensorSpec]:
    """Return the plan by which every slot that is read is filled, the pool's size, slots and segments."""
    found = spans(plan)
    totals = [context + length for context, length in found]
    size = sum(totals) + 7
    slots = tensor("slots", "i64", (sum(totals),), "slots", plan=plan, slots=size)
    segments = tensor("segments", "i64", (len(found), 3), "segments", plan=plan)
    return ".".join(f"{total}+0" for total in totals), size, slots, segments


def queries(plan: str) -> int:
    return sum(length for _, length in spans(plan))


@family(
    "ops/paged_attention",
    dtype=FLOATS,
    plan=PLANS,
    heads=("1.1", "4.2", "3.3", "8.1"),
    size=("8.8", "16.6", "64.64"),
    window=("none", "1", "5"),
    cap=("none", "5", "50"),
    dist=("normal", "heavy", "positive", "small", "special"),
    values=("normal", "heavy"),
    allowed=lambda p: p.dist != "special" or queries(p.plan) > 1,
)
def paged_attention(p: Params) -> Parts:
    """Keys of another request, slots in order where a table says otherwise, positions counted from
    the chunk instead of the prompt, a window or mask that is off by one, a cap after the mask."""
    heads, groups = (int(n) for n in p.heads.split("."))
    d, e = (int(n) for n in p.size.split("."))
    filled, slots, *places = pages(p.plan)
    q = tensor("q", p.dtype, (queries(p.plan), heads, d), p.dist)
    keys = tensor("keys", p.dtype, (slots, groups, d), "pages", plan=filled)
    values = tensor("values", p.dtype, (slots, groups, e), "pages", plan=filled, values=p.values)
    window = None if p.window == "none" else int(p.window)
    return one(
        "paged_attention",
        q,
        keys,
        values,
        *places,
        result=(*q.shape[:2], e),
        scale=d**-0.5,
        window=window,
        softcap=number(p.cap),
    )


@family(
    "ops/latent_attention",
    dtype=FLOATS,
    plan=PLANS,
    heads=("1", "3", "8"),
    size=("6.4.10.5", "16.8.32.16", "32.16.64.32"),
    absorbed=("no", "yes"),
    dist=("normal", "heavy", "small"),
)
def latent_attention(p: Params) -> Parts:
    """Keys and values of a latent in each other's place, the shared part of a key turned twice or left
    out, a scale of the latent's size, the rows of a weight by head in another order."""
    heads = int(p.heads)
    nope, rope, latent, width = (int(n) for n in p.size.split("."))
    filled, slots, *places = pages(p.plan)
    q = tensor("q", p.dtype, (queries(p.plan), heads, nope + rope), p.dist)
    latents = tensor("latents", p.dtype, (slots, latent + rope), "pages", plan=filled)
    w = tensor("w", p.dtype, (heads * (nope + width), latent), exponent=-2, role=Role.WEIGHT)
    return one(
        "latent_attention",
        q,
        latents,
        w,
        *places,
        result=(*q.shape[:2], width),
        nope=nope,
        scale=(nope + rope) ** -0.5,
        absorbed=p.absorbed == "yes",
    )
