"""Cases that run code whole: who records which kind of subject, and where the judge finds its weights.

Each kind has a module of its own, loaded when a case asks for it, since it may need more than is
installed. Such a module defines

    record(case, backend, *, repeat, journal, environment) -> Recording   (of `opinfo`, also: lost)
    weights_of(case) -> Callable[[TensorRef], HostTensor | None]

Options of an `engine` (its case has one input, int64 `tokens`, as many as the plan has):

    config      JSON text of a Hugging Face config; its weights are generated: `weights` is the
                distribution of the matrices, such as `heavy`, keyed by the case like inputs
    checkpoint  instead of these: the name of a safetensors folder, looked for in the folders of
                PARITY_WEIGHTS and among the models that ship with the cases, and its `digest`
    dtype       what weights and activations are: f32, bf16, f16
    force       ops and sites that keep the engine's reference, with commas, or * for all
    plan        which steps the engine takes, see `run.plan`: prefill:64, decode:64+8, score:128,
                mixed:p24,c8+16,d12
    part        one part of the network alone, `04-L03`: see `run.stream.parts`

Options of a `module`: see `run.module_subject`; of `opinfo`: see `case.opinfo`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType

from parity.backend.base import Backend
from parity.case.case import Case, SubjectKind
from parity.case.tensor import HostTensor
from parity.errors import UsageError
from parity.run.journal import Journal
from parity.store.recording import Environment, Failure, Recording, TensorRef

__all__ = ["Ends", "FindWeight", "are_apart", "ends_of", "record_subject", "steps_of", "weights_of"]

# Returns the bytes of a weight that a step names, or None where there is none of that name.
FindWeight = Callable[[TensorRef], "HostTensor | None"]
_MODULES: Mapping[SubjectKind, str] = {
    SubjectKind.ENGINE: "parity.run.engine_subject",
    SubjectKind.MODULE: "parity.run.module_subject",
    SubjectKind.OPINFO: "parity.run.opinfo_subject",
}
_STREAM = "parity.run.stream_subject"
_SCORES = "parity.run.engine_scores"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """Scores [T, vocab] of a case in float64, samples of them under the roundings of its own type, and the
    tokens that followed each position, where the plan is one prompt."""

    oracle: HostTensor
    samples: tuple[HostTensor, ...]
    followed: tuple[int, ...]


def are_apart(case: Case) -> bool:
    """Whether no step of a case needs another, so that one that ends its process costs that step alone."""
    return case.subject is not None and case.subject.kind is SubjectKind.OPINFO


def record_subject(
    case: Case,
    backend: Backend,
    *,
    repeat: int,
    journal: Journal,
    environment: Environment,
    lost: Mapping[str, Failure] = MappingProxyType({}),
) -> Recording:
    """Run the subject of a case on an open backend and return each of its steps.

    `lost` steps are not run; only cases whose steps `are_apart` have them. Raises UsageError for
    options that make no sense, GoldenError for weights that are not here.
    """
    more = {"lost": lost} if are_apart(case) else {}
    found: Recording = _module(case).record(
        case, backend, repeat=repeat, journal=journal, environment=environment, **more
    )
    return found


def weights_of(case: Case) -> FindWeight:
    """Return what finds the weights that a case's recording names; a case of listed steps has none.

    Raises GoldenError that says which where they are not here or are others.
    """
    if case.subject is None:
        return lambda _: None
    found: FindWeight = _module(case).weights_of(case)
    return found


def steps_of(case: Case) -> tuple[str, ...] | None:
    """Return the names of the steps that a whole recording of an engine case has, None for other subjects.

    What a module calls is known by running it alone.
    """
    subject = case.subject
    if subject is None or subject.kind is not SubjectKind.ENGINE or "part" in subject.options:
        return None
    found: tuple[str, ...] = _module(case).steps_of(case)
    return found


def ends_of(case: Case) -> Ends | None:
    """Return what the scores at the end of a case are held against, None where it has none.

    None also for a network that is too large for that. Raises GoldenError where weights are not here.
    """
    subject = case.subject
    if subject is None or subject.kind is not SubjectKind.ENGINE or "part" in subject.options:
        return None
    found: Ends | None = _loaded(case, _SCORES).ends_of(case)
    return found


def _module(case: Case) -> ModuleType:
    assert case.subject is not None, "only a subject is run whole"
    return _loaded(case, _STREAM if "part" in case.subject.options else _MODULES[case.subject.kind])


def _loaded(case: Case, module: str) -> ModuleType:
    assert case.subject is not None, "only a subject is run whole"
    try:
        if case.subject.kind is SubjectKind.ENGINE:
            # Parts of a package stay loaded where the whole fails, and would do half of it next time.
            importlib.import_module("parity.engine")
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("parity"):
            raise
        raise UsageError(
            f"{case.where}: running an {case.subject.kind.value} needs the package '{error.name}', which is "
            "not installed: pip install 'chip-parity[engine]'"
        ) from None
