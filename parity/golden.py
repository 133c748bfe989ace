"""Make goldens: record cases on a backend and create them in a store. Never overwrites.

Proposing and accepting replacements is not here yet; a recording that differs is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from parity.case.case import Case
from parity.run.side import Live
from parity.store.folder import Store
from parity.store.manifest import Kind
from parity.store.recording import Recording

__all__ = ["Made", "record_goldens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What was recorded, and what was not, with reasons."""

    folder: Path | None
    recorded: int
    missing: tuple[tuple[str, str], ...]

    @property
    def exit_code(self) -> int:
        """3 when a case has no recording or a step of it no result; else 0."""
        return 3 if self.missing or not self.recorded else 0

    def lines(self) -> list[str]:
        """Return what `parity record` prints."""
        lines = [f"NOT RECORDED {case}: {reason}" for case, reason in self.missing]
        lines.append(
            f"{self.recorded:,} recorded, {len(self.missing):,} not, in {self.folder or 'no folder'}"
        )
        if self.folder is not None:
            lines.append(f"next    parity check --ref {self.folder}")
        return lines


def record_goldens(
    cases: Sequence[Case],
    live: Live,
    *,
    root: Path,
    reason: str,
    on_case: Callable[[], None],
    facts: Mapping[str, str] = MappingProxyType({}),
) -> Made:
    """Record every case and create it in the golden set of its environment below `root`.

    `facts` go into the set's environment beside what the backend says of itself. A case that a
    backend cannot run is not a golden. Raises GoldenError when the store already has other values
    for a case, BackendError when the backend cannot be used.
    """
    store: Store | None = None
    missing: list[tuple[str, str]] = []
    recorded = 0
    try:
        for result in live.results(cases):
            on_case()
            why = result.reason or _failure(result.recording)
            if why or result.recording is None:
                missing.append((str(result.case.id), why))
                continue
            if store is None:
                store = Store.create(root / Kind.of(result.recording.environment).folder)
                store.describe(facts)
            store.add(result.recording, reason=reason, producer=str(live.spec))
            recorded += 1
    finally:
        if store is not None:
            store.save()
    return Made(folder=store.path if store else None, recorded=recorded, missing=tuple(missing))


def _failure(recording: Recording | None) -> str:
    for step in recording.steps if recording else ():
        if step.failure is not None:
            return f"{step.name}: {step.failure.kind.value}: {step.failure.text}"
    return ""
