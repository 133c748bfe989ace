"""What a pool and its child say to each other: orders and tasks down stdin, events up a pipe of their own.

Vendor libraries print to stdout, stderr and sometimes to whatever is open, so an event line
begins with a word that only these two know. Does not open pipes; `child` does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import Any

from parity.backend.probe import Evidence
from parity.backend.profile import Profile
from parity.store.recording import Environment
from parity.store.schema_environment import environment_json

__all__ = ["Event", "News", "Orders", "Task"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a child is for, its first line; `token` marks its events and `parent` is the pool's pid."""

    spec: str
    setting: str
    case_folders: tuple[str, ...]
    folder: str
    journal: str
    repeat: int
    event_fd: int
    token: str
    parent: int

    def encode(self) -> bytes:
        """Return the line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Orders:
        """Read the line back."""
        data = json.loads(line)
        return cls(**{**data, "case_folders": tuple(data["case_folders"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One case to record, one probe to run, or one recording to replay.

    The revision guards against a case file that changed under the run. `lost` says of steps that ended
    a process before, how: (kind, text); they are not run again. `replay` is the path of a recording
    that holds what its steps consumed; `case` is then only its name.
    """

    case: str = ""
    revision: str = ""
    lost: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    probe: str = ""
    replay: str = ""

    def encode(self) -> bytes:
        """Return the line."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Task:
        """Read the line back."""
        return cls(**json.loads(line))


class News(Enum):
    """What an event reports."""

    READY = "ready"  # the backend is open
    UNUSABLE = "unusable"  # it could not be opened; the child ends
    RECORDED = "recorded"  # a case has its recording
    PROBED = "probed"  # a probe was answered
    NOT_RUN = "not_run"  # a case has none and the backend is not to blame
    RETIRED = "retired"  # the device answers no more; the child ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """`text` is the reason where the news is bad; `environment` comes with READY, `evidence` with PROBED."""

    news: News
    case: str = ""
    text: str = ""
    seconds: float = 0.0
    environment: Environment | None = None
    evidence: Evidence | None = None

    def encode(self, token: str) -> bytes:
        """Return the line, begun on a fresh one so that another's half line cannot swallow it."""
        data: dict[str, Any] = {
            "news": self.news.value,
            "case": self.case,
            "text": self.text,
            "seconds": self.seconds,
        }
        if self.environment is not None:
            data["environment"] = environment_json(self.environment)
        if self.evidence is not None:
            evidence = self.evidence
            data["evidence"] = {
                "known": dict(evidence.known),
                "unknown": dict(evidence.unknown),
                "failed": evidence.failed,
            }
        return f"\n{token} {json.dumps(data)}\n".encode()

    @classmethod
    def decode(cls, line: bytes, token: str) -> Event | None:
        """Read a line back; None for what some library wrote there."""
        word, _, text = line.partition(b" ")
        if word != token.encode():
            return None
        data = json.loads(text)
        found = data.pop("environment", None)
        evidence = data.pop("evidence", None)
        return cls(
            **{**data, "news": News(data["news"])},
            environment=None if found is None else _environment(found),
            evidence=None if evidence is None else Evidence(**evidence),
        )


def _environment(data: Mapping[str, Any]) -> Environment:
    return Environment(**{**data, "profile": Profile.from_json(data["profile"])})
