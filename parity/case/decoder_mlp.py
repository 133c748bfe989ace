"""The feed-forward of a decoder layer as steps: one gated pair of products, or some of many experts."""

from __future__ import annotations

from dataclasses import dataclass

from parity.case.draft import Draft

__all__ = ["Dense", "Experts", "dense", "experts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """Gated feed-forward of `width`; `fused` has gate and up in one product."""

    width: int
    activation: str = "silu"
    bias: bool = False
    fused: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Experts:
    """The `top` of `experts` feed-forwards of `width`, beside `shared` width for all tokens.

    `twins` makes pairs of experts equal to their router, so that whole choices are ties. The rest as
    in the op `route`.
    """

    experts: int
    top: int
    width: int
    activation: str = "silu"
    shared: int = 0
    scores: str = "softmax"
    groups: int = 1
    top_groups: int = 1
    group_best: int = 1
    bias: bool = False
    normalise: bool = True
    scale: float = 1.0
    wide: bool = False
    twins: bool = False


def dense(draft: Draft, x: str, ffn: Dense, *, hidden: int, prefix: str = "") -> str:
    """Add down(activation(gate(x)) up(x)) of x [T, hidden]."""
    if ffn.fused:
        both = draft.linear(f"{prefix}gate_up", x, (2 * ffn.width, hidden), bias=ffn.bias)
    else:
        apart = [
            draft.linear(f"{prefix}{name}", x, (ffn.width, hidden), bias=ffn.bias) for name in ("gate", "up")
        ]
        both = draft.step("cat", *apart, name=f"{prefix}gate_up", dim=1)
    made = draft.step("gated", both, name=f"{prefix}gated", activation=ffn.activation)
    return draft.linear(f"{prefix}down", made, (hidden, ffn.width), bias=ffn.bias)


def experts(draft: Draft, x: str, ffn: Experts, *, hidden: int) -> str:
    """Add the routing of x [T, hidden], its experts, and those that all tokens share."""
    shape = (ffn.experts, hidden)
    if ffn.twins:
        router = draft.weight("router.weight", shape, "paired", axis=0, exponent=-3)
    else:
        router = draft.weight("router.weight", shape)
    # Twins have one bias as well.
    dist = ("paired", {"axis": 0}) if ffn.twins else ("normal", {})
    bias = draft.weight("router.bias", shape[:1], dist[0], **dist[1], exponent=-2) if ffn.bias else None
    site = draft.run + draft.layer
    weights = draft.step(
        "route",
        *(x, router, bias),
        name="route",
        outputs=f"{site}route.weights,{site}route.chosen",
        top=ffn.top,
        scores=ffn.scores,
        groups=ffn.groups,
        top_groups=ffn.top_groups,
        group_best=ffn.group_best,
        normalise=ffn.normalise,
        scale=ffn.scale,
        wide=ffn.wide,
    )
    up = draft.weight("experts.gate_up", (ffn.experts, 2 * ffn.width, hidden))
    down = draft.weight("experts.down", (ffn.experts, hidden, ffn.width))
    chosen = f"{site}route.chosen"
    made = draft.step("experts", x, weights, chosen, up, down, name="experts", activation=ffn.activation)
    if not ffn.shared:
        return made
    shared = Dense(width=ffn.shared, activation=ffn.activation)
    return draft.step(
        "add", made, dense(draft, x, shared, hidden=hidden, prefix="shared."), name="shared.add"
    )
