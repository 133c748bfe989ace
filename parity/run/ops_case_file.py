"""The case file of a model's operations: one case for each of them and each distribution.

Does not find out which there are; `ops_of_model` does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from parity.run.ops_of_model import Needed, Spec

__all__ = ["DISTS", "write_cases"]

# What activations are drawn from; weights are normal.
DISTS = ("heavy", "normal")


def write_cases(found: Sequence[Needed], file: Path, *, model: str) -> None:
    """Write a case file in which each operation is a case for each of `DISTS`; `model` is in their ids."""
    table: dict[str, dict[str, object]] = {}
    for one in found:
        rows = table.setdefault(one.op, {})
        name, number = one.shape, 1
        while name in rows:
            number += 1
            name = f"{one.shape}+{number}"
        rows[name] = {
            "attrs": dict(one.attrs),
            "inputs": [_written(s) for s in one.inputs],
            "sites": one.sites,
        }
    text = json.dumps(table, indent=1)
    file.write_text(
        _FILE.format(model=json.dumps(model), table=repr(text), dists=repr(DISTS)), encoding="utf-8"
    )


def _written(spec: Spec | None) -> dict[str, object] | None:
    if spec is None:
        return None
    return {
        "name": spec.name,
        "dtype": spec.dtype,
        "shape": spec.shape,
        "dist": spec.dist,
        "options": dict(spec.options),
        "cut": spec.cut,
    }


_FILE = '''"""Every operation of one model on generated inputs, written by `parity check --model … --ops`.

An input with a `cut` is the first rows of one that has so many in the model.
"""

import json

from parity.case.family import family, one, tensor

MODEL = {model}
TABLE = json.loads({table})
DISTS = {dists}


def _declare(op, rows):
    def kind(row):
        return next(i["dtype"] for i in row["inputs"] if i and i["dtype"][0] in "bf")

    dtypes = {{name: kind(row) for name, row in rows.items()}}

    @family(
        f"model-ops/{{op}}",
        allowed=lambda p: dtypes[p.shape] == p.dtype,
        dist=DISTS,
        dtype=tuple(dict.fromkeys(dtypes.values())),
        model=(MODEL,),
        shape=tuple(rows),
    )
    def build(p):
        """An operation as the model calls it, alone: what a port's kernel does with this very shape."""
        row = rows[p.shape]

        def drawn(i):
            if i is None:
                return None
            dist, options = i["dist"], i["options"]
            if dist == "activation":
                # Outliers of a few thousand, so that float16 holds what is made of them.
                dist, options = p.dist, {{"exponent": -4}} if p.dist == "heavy" else {{}}
            return tensor(i["name"], i["dtype"], tuple(i["shape"]), dist, **options)

        return one(op, *map(drawn, row["inputs"]), **row["attrs"])


for _op, _rows in TABLE.items():
    _declare(_op, _rows)
'''
