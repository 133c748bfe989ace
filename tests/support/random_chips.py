"""Chips drawn from everything that `Arithmetic` can say, for tests of the probe.

Left out is what has no effect that anybody could see: two runs in another order, pairs of exact
products in blocks of one or two, an index that cannot be stored. So is what simulated chips do not
compute: batch, threads, and the host's own cast to fp8, which depends on the version of torch.
"""

from __future__ import annotations

import random

from parity.backend.arithmetic import Flush, Order, Products, Reads
from parity.backend.profile import Accumulator, Rounding
from parity.backend.sim.chip import Chip, Quirk
from parity.backend.spec import Setting
from parity.case.dtype import DTYPES

ACCUMULATORS = {
    "f32": ("f32", "f32", "f64"),
    "conv.f32": ("f32", "f64"),
    "bf16": ("f32", "bf16"),
    "f16": ("f32", "f16"),
}


def draw_products(rng: random.Random, key: str) -> Products:
    reads = rng.choice(list(Reads)) if key.endswith("f32") else Reads.IEEE
    kept = rng.choice(ACCUMULATORS[key])
    order = rng.choice(list(Order))
    exact = kept == "f64" or (key in ("bf16", "f16") and kept == "f32") or reads is not Reads.IEEE
    smallest = 3 if order is Order.PAIRWISE and exact else 1
    splits = rng.randint(1, 6)
    return Products(
        reads=reads,
        accumulator=Accumulator(
            dtype=DTYPES[kept], block=rng.randint(smallest, 32), rounding=rng.choice(list(Rounding))
        ),
        order=order,
        splits=splits,
        ordered=splits < 3 or rng.random() < 0.6,
    )


def draw_chip(seed: int) -> Chip:
    rng = random.Random(seed)
    floats = ("f32", "bf16", "f16")
    keys = rng.sample(sorted(ACCUMULATORS), k=rng.randint(1, 2))
    # The host's cast serves e4m3fn that does not saturate.
    fp8, fp8_overflow = rng.choice(
        [
            ("e4m3fn", "saturate"),
            ("e4m3fnuz", "saturate"),
            ("e4m3fnuz", "native"),
            ("e4m3_gaudi2", "saturate"),
            ("e4m3_gaudi2", "native"),
            ("unsupported", "saturate"),
        ]
    )
    drawn = {
        "products": {key: draw_products(rng, key) for key in keys},
        "flush": {of: rng.choice(list(Flush)) for of in floats},
        "overflow": {of: rng.choice(["inf", "max"]) for of in floats},
        "int64": rng.choice(["i64", "i64", "i32", "i32", "unsupported"]),
        "float64": rng.choice(["f64", "f32", "unsupported"]),
        "fp8": fp8,
        "fp8_overflow": fp8_overflow,
        "ulps": {name: rng.randint(0, 4) for name in ("exp", "erf", "tanh", "rsqrt")},
        "gelu": rng.choice(["erf", "tanh"]),
        "division": rng.choice(["ieee", "reciprocal"]),
        "negative_index": rng.choice(["wraps", "clamps", "error"]),
        "masked_row": rng.choice(["nan", "zero", "mean"]),
        "movement": rng.choice(["exact", "quiets", "flushes"]),
    }
    quirk = Quirk(name="drawn", text=f"drawn from seed {seed}", source="this test", arithmetic=drawn)
    return Chip(name=f"random{seed}", title=f"a chip of seed {seed}", quirks=(quirk,))


def observable(chip: Chip) -> dict[str, str]:
    """What the chip declares and somebody could see, by fact."""
    arithmetic = chip.arithmetic(Setting.STRICT, "eager")
    facts = dict(arithmetic.facts())
    if arithmetic.int64 == "unsupported":
        del facts["negative_index"]
    if arithmetic.fp8 == "unsupported":
        del facts["fp8_overflow"]
    for key, how in arithmetic.products.items():
        if how.splits == 2:
            del facts[f"products.{key}.ordered"]
    return facts
