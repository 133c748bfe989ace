"""Gaudi 2 as far as it is documented, in `DEVICES.md`; where the size of an effect is not, a model.

`[S]`, `[D]`, `[U]` there say source read, documentation, unverified.
"""

from __future__ import annotations

from parity.backend.arithmetic import Flush, Order, Products, Reads
from parity.backend.profile import Accumulator
from parity.backend.sim.chip import Chip, Quirk, gap
from parity.backend.spec import Setting
from parity.case.dtype import DTYPES

__all__ = ["CHIP"]

_PRODUCTION = (Setting.PRODUCTION,)
_STRICT = (Setting.STRICT,)
# Rounds to nearest (H6b [S]). How many products meet before a rounding is not documented: a model of one.
_ACCUMULATOR = Accumulator(dtype=DTYPES["f32"])
_IN_ORDER = Products(accumulator=_ACCUMULATOR, order=Order.SEQUENTIAL, splits=1, ordered=True)
# The number of runs is a model; that K is split and that they meet in any order is documented.
_SPLIT = Products(accumulator=_ACCUMULATOR, order=Order.SEQUENTIAL, splits=4, ordered=False)

CHIP = Chip(
    name="gaudi2",
    title="Gaudi 2 as documented",
    modes=("eager", "lazy"),
    quirks=(
        Quirk(
            name="gelu_is_tanh",
            text="erf-gelu is computed as tanh-gelu; strict sets PT_HPU_FORCE_TANH_FOR_GELU=0",
            source="DEVICES.md 7 H4, 1.4",
            settings=_PRODUCTION,
            arithmetic={"gelu": "tanh"},
        ),
        Quirk(
            name="int64_is_int32",
            text="lazy mode keeps the low 32 bits of int64",
            source="DEVICES.md 1.4, 3.3 PT_ENABLE_INT64_SUPPORT",
            modes=("lazy",),
            arithmetic={"int64": "i32"},
        ),
        Quirk(
            name="float64_is_float32",
            text="float64 is mapped to float32 and copied back as float64",
            source="DEVICES.md 3.3 Dtypes",
            arithmetic={"float64": "f32"},
        ),
        Quirk(
            name="fp8_range_240",
            text="e4m3fn codes are read as IEEE-style E4M3, largest 240",
            source="DEVICES.md 7 H6, 3.3 Dtypes",
            arithmetic={"fp8": "e4m3_gaudi2"},
        ),
        Quirk(
            name="fp8_clips",
            text="conversion to fp8 clips instead of giving infinity",
            source="DEVICES.md 3.3 clippingEn",
            arithmetic={"fp8_overflow": "saturate"},
        ),
        Quirk(
            name="f32_products_not_ieee",
            text="float32 products are not IEEE unless GAUDI2_FORCE_MME_FP32_IEEE=1; bf16x2 is a model",
            source="DEVICES.md 7 H6c, 3.3",
            settings=_PRODUCTION,
            arithmetic={
                "products": {
                    "f32": Products(
                        reads=Reads.BF16X2,
                        accumulator=_ACCUMULATOR,
                        order=Order.SEQUENTIAL,
                        splits=1,
                        ordered=True,
                    )
                }
            },
        ),
        Quirk(
            name="k_split_in_any_order",
            text="K is split over engines whose sums meet in the order in which they are ready",
            source="DEVICES.md 3.3 ENABLE_MME_CD_CONCURRENCY",
            settings=_PRODUCTION,
            arithmetic={"products": {"bf16": _SPLIT}},
        ),
        Quirk(
            name="accumulates_in_order",
            text="under strict, float32 sums to nearest, K not split",
            source="DEVICES.md 7 H6b, 3.3 DETERMINISTIC_MODE",
            settings=_STRICT,
            arithmetic={"products": {"f32": _IN_ORDER, "bf16": _IN_ORDER}},
        ),
        Quirk(
            name="fast_division",
            text="division multiplies by the reciprocal; strict sets PT_HPU_ENABLE_DIV_PRECISE=1",
            source="DEVICES.md 1.4, 3.3; that the fast kernel is a reciprocal is a model",
            settings=_PRODUCTION,
            arithmetic={"division": "reciprocal"},
        ),
        Quirk(
            name="bf16_flushes",
            text="elementwise bf16 reads and writes subnormals as zero",
            source="DEVICES.md 3.3 fma_bfp16 dnorm_ftz; flags of real kernels [U]",
            arithmetic={"flush": {"bf16": Flush.BOTH}},
        ),
        Quirk(
            name="f16_flushes_results",
            text="elementwise float16 writes subnormals as zero",
            source="DEVICES.md 3.3 fp16 out-FTZ; flags of real kernels [U]",
            arithmetic={"flush": {"f16": Flush.RESULTS}},
        ),
        Quirk(
            name="negative_index_clamps",
            text="negative indices of index_put are not handled; that they become 0 is a model",
            source="DEVICES.md 3.3 PT_HPU_ENABLE_NEGATIVE_INDEXING, 7 H16",
            arithmetic={"negative_index": "clamps"},
        ),
        Quirk(
            name="graph_per_shape",
            text="lazy graphs are compiled again for every shape",
            source="DEVICES.md 3.3 Execution, 5",
            modes=("lazy",),
            graphs=True,
        ),
        *gap(
            "f16_products",
            "no float16 matrix product",
            "DEVICES.md 3.3 Op gaps (dtype table: matmul FP16 No)",
            ops=("mm", "bmm", "addmm", "baddbmm", "mv", "dot"),
            dtypes=("f16",),
        ),
        *gap(
            "f16_index",
            "no float16 index_put, tril or triu",
            "DEVICES.md 3.3 Op gaps (dtype table: index_put, tril, triu FP16 No)",
            ops=("index_put", "_index_put_impl", "tril", "triu"),
            dtypes=("f16",),
        ),
        *gap(
            "i64_order",
            "no int64 gather, topk, sort or argmax",
            "DEVICES.md 3.3 Op gaps (dtype table: gather, topk, sort, argmax INT64 No)",
            ops=("gather", "topk", "sort", "argmax"),
            dtypes=("i64",),
        ),
    ),
)
