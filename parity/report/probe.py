"""What `parity probe` found: each fact, declared and probed, the reasons, the findings.

Eighty columns of plain text, or JSON. Does not probe; `run.probing` does.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping

import parity
from parity.run.probing import Probed

__all__ = ["dumps", "lines"]

_WIDTH = 80
_HEAD = f"{'fact':<30}{'declared':<15}{'probed':<15}agrees"


def lines(probed: Probed) -> Iterator[str]:
    """Yield the report."""
    environment = probed.environment
    yield f"parity {parity.__version__}    probe of {environment.backend}, {environment.setting}"
    yield ""
    yield _HEAD
    for fact in _facts(probed):
        said, found = probed.declared.get(fact, "-"), probed.known.get(fact, "unknown")
        yield f"{fact:<30}{said:<15}{found:<15}{_agrees(probed, fact)}".rstrip()
    for reason, facts in _reasons(probed.unknown):
        yield ""
        yield from _wrapped(f"UNKNOWN {', '.join(facts)}")
        yield from _wrapped(f"  = {reason}", "    ")
    for fact, said, found in probed.findings():
        yield ""
        yield from _wrapped(f"DISAGREES {fact}: {said} is declared, {found} was probed")
    yield ""
    yield _counts(probed)
    yield f"next    {_next(probed)}"


def _facts(probed: Probed) -> list[str]:
    return sorted({*probed.declared, *probed.known, *(probed.unknown)})


def _agrees(probed: Probed, fact: str) -> str:
    if fact not in probed.declared or fact not in probed.known:
        return ""
    return "yes" if probed.declared[fact] == probed.known[fact] else "NO"


def _reasons(unknown: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Return each reason once, with the facts that it is one for."""
    found: dict[str, list[str]] = {}
    for fact in sorted(unknown):
        found.setdefault(unknown[fact], []).append(fact)
    return list(found.items())


def _counts(probed: Probed) -> str:
    agree = sum(_agrees(probed, fact) == "yes" for fact in probed.known)
    return (
        f"{len(probed.known)} facts probed in {probed.seconds:.1f} s, {agree} as declared, "
        f"{len(probed.findings())} not, {len(probed.unknown)} unknown"
    )


def _next(probed: Probed) -> str:
    setting = " --production" if probed.environment.setting == "production" else ""
    return f"parity check --target {probed.environment.backend}{setting}"


def _wrapped(text: str, indent: str = "        ") -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def dumps(probed: Probed) -> str:
    """Return the same as JSON; every fact that is not known is in `unknown`, with the reason."""
    report = {
        "version": 1,
        "parity": parity.__version__,
        "target": probed.environment.backend,
        "setting": probed.environment.setting,
        "provenance": dict(probed.environment.provenance),
        "declared": dict(probed.declared),
        "probed": dict(probed.known),
        "unknown": dict(probed.unknown),
        "findings": [
            {"fact": fact, "declared": said, "probed": found} for fact, said, found in probed.findings()
        ],
        "seconds": round(probed.seconds, 3),
        "exit_code": probed.exit_code,
    }
    return json.dumps(report, indent=1) + "\n"
