"""What `parity repro` says: the step, what was cut away, where the files are, how to run them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from parity.localize.reproduce import Reproduced
from parity.report.terminal import WIDTH

__all__ = ["lines"]


def lines(found: Reproduced) -> Iterator[str]:
    """Yield the report; the last line runs what was written."""
    yield f"{found.verdict.value.upper().replace('_', ' ')} {found.step}   {found.op}"
    yield from _field("inputs", found.inputs)
    for sentence in found.said:
        yield from textwrap.wrap(
            sentence, WIDTH, initial_indent="  = ", subsequent_indent="    ", break_long_words=False
        )
    written = found.written
    yield f"script  {written.script}"
    yield f"tensors {written.tensors}   {written.nbytes:,} bytes"
    yield f"next    python {written.script}"


def _field(name: str, text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent=f"  | {name}  ", subsequent_indent="  |         ", break_long_words=False
    )
