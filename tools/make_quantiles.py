"""Print `parity/case/quantiles.py`: run as `python tools/make_quantiles.py > parity/case/quantiles.py`.

Quantiles are computed at 60 digits with mpmath, so that each knot is the nearest integer, and no
machine's log or erf decides an input bit. Not run by the tests; they check its product.
"""

from __future__ import annotations

import mpmath

KNOTS = 1024
LAST = 5  # the table ends at 5 sigma; the true last quantile is infinite
SCALE_BITS = 40
PER_LINE = 7

HEAD = '''"""Quantiles of the half-normal distribution as integers, in units of 2^-40.

`KNOTS[k]` is the quantile of probability k/1024, that of a standard normal at 1/2 + k/2048; the
last, infinite one stands at 5. Literals, so that no library's log or erf decides an input bit.
Written by `tools/make_quantiles.py`; to change it is to change every input of every case.
"""

from __future__ import annotations

__all__ = ["KNOTS", "SCALE_BITS"]

SCALE_BITS = 40

# fmt: off
KNOTS: tuple[int, ...] = ('''


def knots() -> list[int]:
    """Return round(2^40 sqrt(2) erfinv(k/1024)) for k in 0..1023, then 5 * 2^40."""
    mpmath.mp.dps = 60
    scale = mpmath.mpf(2) ** SCALE_BITS
    inner = [
        int(mpmath.nint(scale * mpmath.sqrt(2) * mpmath.erfinv(mpmath.mpf(k) / KNOTS))) for k in range(KNOTS)
    ]
    return [*inner, LAST << SCALE_BITS]


def main() -> None:
    """Print the module."""
    print(HEAD)
    table = knots()
    for start in range(0, len(table), PER_LINE):
        print(f"    {', '.join(map(str, table[start : start + PER_LINE]))},")
    print(")")
    print("# fmt: on")


if __name__ == "__main__":
    main()
