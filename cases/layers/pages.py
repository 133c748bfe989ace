"""Keys and values on their way: into the pool, out of it, and from one pool to another."""

from parity.case.case import Step
from parity.case.dist_pages import spans
from parity.case.family import FLOATS, Params, Parts, family, parts, step, tensor


@family(
    "layers/pages",
    dtype=FLOATS,
    plan=("0+17", "16+1.33+1.5+1", "15+1.0+16.17+2"),
    row=("2x8", "24"),
    dist=("heavy", "special", "bits"),
    layout=("contiguous", "transposed", "strided"),
)
def pages(p: Params) -> Parts:
    """A slot beside the right one or one that is not written, rows read as if they lay side by side,
    the bits of a NaN that are not kept, a request moved to another pool with its neighbour's rows."""
    plan, row = spans(p.plan), tuple(int(n) for n in p.row.split("x"))
    new, every = sum(length for _, length in plan), sum(map(sum, plan))
    slots = every + 5
    pool = tensor("pool", p.dtype, (slots, *row), "pages", plan=p.plan)
    other = tensor("other", p.dtype, (every + 1, *row), "bits")
    rows = tensor("rows", p.dtype, (new, *row), p.dist, layout=p.layout)
    where = tensor("new_slots", "i64", (new,), "slots", plan=p.plan, slots=slots, new=True)
    held = tensor("slots", "i64", (every,), "slots", plan=p.plan, slots=slots)
    there = tensor("there", "i64", (every,), "permutation", high=every + 1)
    steps: tuple[Step, ...] = (
        step("copy", rows, outputs="dense"),
        step("index_put", pool, where, "dense", name="store", outputs="stored", accumulate=False),
        step("index", "stored", held, name="swap_out", outputs="moving"),
        step("index_put", other, there, "moving", name="swap_in", outputs="moved", accumulate=False),
    )
    return parts((pool, other, rows, where, held, there), *steps)
