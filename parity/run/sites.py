"""What a call of an engine's op is in the op table: canonical op, attributes, named inputs and outputs.

Pages and positions become tensors: a step reads the pool's rows that its batch names, each once and
in the order of their slots, and `slots` counts in them. Weights are named as the engine names them.
Copies nothing but rows of a pool, and waits for no device. Does not run the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from parity.case.op import Attr
from parity.engine.model.scaled import Matrix, dense
from parity.engine.ops.op import Op
from parity.engine.run.batch import Batch

__all__ = ["CANONICAL", "Described", "Named", "Pages", "describe"]

# Of each op of the engine, the op of the table. A fused op is never bound where a wrap looks on.
CANONICAL: Mapping[str, str] = {
    "add": "add",
    "attend": "paged_attention",
    "embed": "scaled_embedding",
    "experts": "experts",
    "gated": "gated",
    "latent_attend": "latent_attention",
    "linear": "linear",
    "rms_norm": "weighted_rms_norm",
    "rotate": "rotate",
    "route": "route",
    "softcap": "softcap",
    "store": "copy",
}


class Pages:
    """Where the rows of one batch lie: `read` are the slots that it reads, each once, ascending.

    `slots` has, for every position of every segment, the place of its row among `read`; `segments`
    are [n, 3] start row, length, context; `written` are the slots of the batch's own rows. All are
    int64 on the host. `host` is the same batch there: without it the device is waited for.
    """

    def __init__(self, batch: Batch, host: Batch | None = None) -> None:
        host = host or batch
        every = [segment.slots.cpu().numpy() for segment in host.segments]
        self.read, places = np.unique(np.concatenate(every), return_inverse=True)
        self.slots: npt.NDArray[np.int64] = places.reshape(-1).astype(np.int64)
        self.segments = np.array([(s.start, s.length, s.context) for s in batch.segments], dtype=np.int64)
        self.written: npt.NDArray[np.int64] = host.slots.cpu().numpy()
        self._rows = torch.from_numpy(self.read).to(batch.slots.device)

    def rows(self, pool: Tensor) -> Tensor:
        """Return the rows of a pool that the batch reads, a copy on the pool's device."""
        return pool.index_select(0, self._rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """One input: a weight under the engine's name for it, else under its name in the op table.

    `pool` is the pool that its rows come from, for attention; `value` is then a copy of them.
    """

    name: str
    value: Tensor | npt.NDArray[np.int64]
    is_weight: bool = False
    pool: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A call as a step of the op table; `stored_in` is the pool that a `copy` writes, at `pages.written`."""

    op: str
    inputs: tuple[Named | None, ...]
    outputs: tuple[str, ...] = ("y",)
    attrs: Mapping[str, Attr]
    pages: Pages | None = None
    stored_in: Tensor | None = None


def describe(
    site: str, op: Op, bound: Mapping[str, Any], arguments: Sequence[Any], pages: Callable[[Batch], Pages]
) -> Described:
    """Return the step that a call at `site` is; `bound` holds what was bound and the call's options.

    `pages` finds those of a batch, which its sites share. Raises KeyError for an op that the table
    has no equal of.
    """
    return _DESCRIBE[op.name](_Site(site, bound, pages), *arguments)


@dataclass(frozen=True, slots=True)
class _Site:
    name: str
    bound: Mapping[str, Any]
    find_pages: Callable[[Batch], Pages]

    def __getitem__(self, name: str) -> Any:
        return self.bound[name]

    @property
    def pages(self) -> Pages:
        return self.find_pages(self.bound["batch"])

    def weight(self, key: str, name: str = "", *, like: torch.dtype | None = None) -> Named | None:
        """Return what is bound as `key`, None for none.

        The engine calls it by its site, with a `name` that begins with a dot behind it, or with any
        other in place of the site's last word. What is no bias gets `.w`: outputs have names of sites.
        """
        held = self.bound.get(key)
        if held is None:
            return None
        layer, dot, _ = self.name.rpartition(".")
        full = self.name + name if not name or name.startswith(".") else layer + dot + name
        return Named(
            name=full if full.endswith(".bias") else f"{full}.w", value=_whole(held, like), is_weight=True
        )


def _whole(held: Matrix | Sequence[Matrix], like: torch.dtype | None) -> Tensor:
    """Return a weight as it is computed with: what is kept as codes is made dense."""
    if isinstance(held, Tensor):
        return held
    assert like is not None, "a weight that is kept as codes belongs to a product"
    if isinstance(held, Sequence):
        return torch.stack([dense(each, like) for each in held])
    return dense(held, like)


def _activations(*named: tuple[str, Tensor]) -> tuple[Named, ...]:
    return tuple(Named(name=name, value=value) for name, value in named)


def _embed(site: _Site, tokens: Tensor) -> Described:
    inputs = (site.weight("w"), Named(name="ids", value=tokens))
    return Described(op="scaled_embedding", inputs=inputs, attrs={"scale": float(site["scale"])})


def _linear(site: _Site, x: Tensor) -> Described:
    # The head of a model that ties it is the embedding; the recorder knows a weight that it has seen.
    inputs = (*_activations(("x", x)), site.weight("w", like=x.dtype), site.weight("b", ".bias"))
    return Described(op="linear", inputs=inputs, attrs={})


def _rms_norm(site: _Site, x: Tensor) -> Described:
    offset = float(site["offset"])
    attrs = {"eps": float(site["eps"]), "offset": offset, "rounds_first": not offset}
    return Described(op="weighted_rms_norm", inputs=(*_activations(("x", x)), site.weight("w")), attrs=attrs)


def _add(_: _Site, x: Tensor, y: Tensor) -> Described:
    return Described(op="add", inputs=_activations(("a", x), ("b", y)), attrs={})


def _rotate(site: _Site, x: Tensor, cos: Tensor, sin: Tensor) -> Described:
    inputs = _activations(("x", x), ("cos", cos), ("sin", sin))
    return Described(op="rotate", inputs=inputs, attrs={"interleaved": bool(site["interleaved"])})


def _store(site: _Site, x: Tensor) -> Described:
    return Described(
        op="copy", inputs=_activations(("x", x)), attrs={}, pages=site.pages, stored_in=site["pool"]
    )


def _cached(site: _Site, name: str) -> Named:
    pool: Tensor = site[name]
    return Named(name=name, value=site.pages.rows(pool), pool=pool)


def _placed(pages: Pages) -> tuple[Named, Named]:
    return Named(name="slots", value=pages.slots), Named(name="segments", value=pages.segments)


def _attend(site: _Site, q: Tensor) -> Described:
    cached = (_cached(site, "keys"), _cached(site, "values"))
    cap = site["softcap"]
    return Described(
        op="paged_attention",
        inputs=(*_activations(("q", q)), *cached, *_placed(site.pages)),
        attrs={
            "scale": float(site["scale"]),
            "window": site["window"],
            "softcap": None if cap is None else float(cap),
        },
        pages=site.pages,
    )


def _latent_attend(site: _Site, q: Tensor) -> Described:
    weight = site.weight("w", "kv_b", like=q.dtype)
    return Described(
        op="latent_attention",
        inputs=(*_activations(("q", q)), _cached(site, "latents"), weight, *_placed(site.pages)),
        attrs={"nope": int(site["nope"]), "scale": float(site["scale"]), "absorbed": False},
        pages=site.pages,
    )


def _gated(site: _Site, x: Tensor) -> Described:
    return Described(op="gated", inputs=_activations(("x", x)), attrs={"activation": site["activation"]})


def _route(site: _Site, x: Tensor) -> Described:
    router = site["router"]
    names = ("top", "scores", "groups", "top_groups", "group_best", "normalise", "wide")
    return Described(
        op="route",
        inputs=(*_activations(("x", x)), site.weight("w", "router"), site.weight("bias", "router.bias")),
        outputs=("weights", "chosen"),
        attrs={**{name: getattr(router, name) for name in names}, "scale": float(router.scale)},
    )


def _experts(site: _Site, x: Tensor, weights: Tensor, chosen: Tensor) -> Described:
    up = site.weight("up", ".gate_up", like=x.dtype)
    down = site.weight("down", ".down", like=x.dtype)
    inputs = (*_activations(("x", x), ("weights", weights), ("chosen", chosen)), up, down)
    return Described(op="experts", inputs=inputs, attrs={"activation": site["activation"]})


def _softcap(site: _Site, x: Tensor) -> Described:
    return Described(op="softcap", inputs=_activations(("x", x)), attrs={"cap": float(site["cap"])})


_DESCRIBE: Mapping[str, Callable[..., Described]] = {
    "add": _add,
    "attend": _attend,
    "embed": _embed,
    "experts": _experts,
    "gated": _gated,
    "latent_attend": _latent_attend,
    "linear": _linear,
    "rms_norm": _rms_norm,
    "rotate": _rotate,
    "route": _route,
    "softcap": _softcap,
    "store": _store,
}
