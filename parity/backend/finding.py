"""What an examination of this machine says of one subject. Does not examine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Finding", "State"]


class State(Enum):
    """How a subject is; only BROKEN keeps parity, or a vendor's stack, from working."""

    OK = "ok"
    WARNING = "warning"  # works, or may work: a person should look
    BROKEN = "broken"
    ABSENT = "absent"  # not installed, and nothing else is wrong with that


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One subject, its state, the evidence, and what to do unless it is OK."""

    subject: str
    state: State
    detail: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if bool(self.remedy) is (self.state is State.OK):
            raise ValueError(f"{self.subject}: what is not ok has a remedy, got {self.remedy!r}")
