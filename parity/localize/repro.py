"""Write a departing step as one Python file and one Arrow file that need torch and pyarrow alone.

The Python file holds the code of the step, the Arrow file its inputs, what was recorded of it, and what
the oracle allows. Does not choose the step, shrink it or run anything.
"""

from __future__ import annotations

import math
import pprint
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parity.case.ids import CaseId
from parity.case.op import Attr
from parity.case.tensor import HostTensor
from parity.judge.verdict import Cause, Verdict
from parity.localize.expectation import Expectation
from parity.localize.plain_code import function_of, plain_code
from parity.localize.repro_where import Where
from parity.store import arrow
from parity.store.atomic import replacing
from parity.store.recording import Environment, Recording, StepRecord, TensorRef

__all__ = ["Reproduction", "Written", "write"]

_TEMPLATE = Path(__file__).with_name("repro_script.txt")
_OPENVINO = Path(__file__).with_name("repro_openvino.txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reproduction:
    """One step that departs, with all that shows it.

    `consumed` follow `record.inputs`, whose layouts they are to have; `recorded` is what the target gave,
    empty where it gave nothing; `reference` what the other side gave of the same inputs; `right` a known
    right answer where several are. `story` are sentences about where it comes from.
    """

    case: CaseId
    revision: str
    record: StepRecord
    consumed: tuple[HostTensor | None, ...]
    expected: tuple[Expectation, ...]
    environment: Environment
    where: Where
    verdict: Verdict
    recorded: tuple[HostTensor, ...] = ()
    reference: tuple[HostTensor, ...] = ()
    right: tuple[HostTensor, ...] = ()
    causes: tuple[Cause, ...] = ()
    story: tuple[str, ...] = ()
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The two files, and the bytes of the Arrow file."""

    script: Path
    tensors: Path
    nbytes: int


def write(found: Reproduction, folder: Path) -> Written:
    """Write both files into `folder`, which is made. Raises GoldenError when it cannot be written."""
    stem = _stem(found)
    script, tensors = folder / f"{stem}.py", folder / f"{stem}.arrow"
    recording, outputs = _recording(found)
    digest = arrow.write(recording, tensors)
    arrow.read(tensors)  # a file that cannot be read back is none
    text = _script(found, outputs, tensors=tensors.name, script=script.name, digest=digest)
    with replacing(script) as file:
        file.write(text.encode())
    return Written(script=script, tensors=tensors, nbytes=tensors.stat().st_size)


def _stem(found: Reproduction) -> str:
    words = f"{found.case.path}-{found.record.name}"
    return "repro-" + "".join(c if c.isalnum() or c in "._" else "-" for c in words)


def _recording(found: Reproduction) -> tuple[Recording, list[dict[str, Any]]]:
    """Return everything as a recording, and the outputs as the script names them."""
    tensors: dict[str, HostTensor] = {}
    refs: list[TensorRef] = []
    outputs = []
    for position, wanted in enumerate(found.expected):
        name = found.record.outputs[position].name if found.record.outputs else f"output {position}"
        held = {
            role: _keep(t, f"{name}.{role}", tensors, refs)
            for role, t in _by_role(found, position, wanted).items()
        }
        outputs.append(
            {
                "name": name,
                "dtype": wanted.dtype.name,
                "shape": list(wanted.shape),
                "kind": wanted.kind,
                "limits": dict(wanted.limits),
                "tensors": {role: _literal(ref) for role, ref in held.items()},
            }
        )
    for ref, held_input in zip(found.record.inputs, found.consumed, strict=True):
        if ref is not None and held_input is not None:
            tensors[ref.digest] = held_input.contiguous()
    steps = (
        StepRecord(
            name=found.record.name,
            op=found.record.op,
            attrs=found.record.attrs,
            inputs=found.record.inputs,
            outputs=(),
        ),
        StepRecord(name="expected", op="oracle", attrs={}, inputs=(), outputs=tuple(refs)),
    )
    recording = Recording(
        case=str(found.case),
        revision=found.revision,
        environment=found.environment,
        steps=steps,
        tensors=tensors,
    )
    return recording, outputs


def _by_role(found: Reproduction, position: int, wanted: Expectation) -> dict[str, HostTensor]:
    """Return what is allowed of an output, and what each side gave of its form."""
    roles = dict(wanted.tensors)
    for role, given in (("recorded", found.recorded), ("reference", found.reference), ("right", found.right)):
        if position < len(given) and _fits(given[position], wanted):
            roles[role] = given[position]
    return roles


def _fits(tensor: HostTensor, wanted: Expectation) -> bool:
    return tensor.dtype is wanted.dtype and tensor.shape == wanted.shape


def _keep(tensor: HostTensor, name: str, tensors: dict[str, HostTensor], refs: list[TensorRef]) -> TensorRef:
    tensor = tensor.contiguous()
    ref = TensorRef(
        name=name,
        role="activation",
        dtype=tensor.dtype,
        shape=tensor.shape,
        stride=tensor.stride,
        offset=0,
        digest=tensor.digest(),
    )
    tensors[ref.digest] = tensor
    refs.append(ref)
    return ref


def _literal(ref: TensorRef) -> dict[str, Any]:
    return {
        "name": ref.name,
        "dtype": ref.dtype.name,
        "shape": list(ref.shape),
        "stride": list(ref.stride),
        "offset": ref.offset,
        "digest": ref.digest,
    }


def _script(
    found: Reproduction, outputs: Sequence[Mapping[str, Any]], *, tensors: str, script: str, digest: str
) -> str:
    record, where = found.record, found.where
    code = plain_code(record.op, record.attrs, plain=where.runtime == "openvino")
    pin = function_of("parity.backend.torch_switches", "pin") if where.pins_cpu else None
    imports = list(dict.fromkeys([*code.imports, *(pin.imports if pin else ())]))
    imports = [line for line in imports if line != "import torch"]
    definitions = code.text() + (f"\n\n\n{pin.text().replace('def pin(', 'def pin_cpu(')}" if pin else "")
    is_call = record.op.startswith("torch:")
    values = {
        "TITLE": f"{found.case} step {record.name}: {record.op} {_word(found.verdict)} on {where.name}",
        "STORY": _story(found),
        "SCRIPT": script,
        "RUNS_ON": where.words(),
        "ENVIRONMENT": pprint.pformat(dict(where.environment), width=100),
        "IMPORTS": textwrap.indent("\n".join(imports), "    "),
        "ARROW": tensors,
        "DIGEST": digest,
        "DEVICE": repr(where.device),
        "PLUGINS": repr(where.plugins),
        "PINNED": _rows(where.pinned),
        "COMPILER": repr(where.compiler),
        "VERDICT": found.verdict.value,
        "TIMEOUT": f"{found.timeout_s:g}",
        "ATTRS": "{}" if is_call else _attrs(record.attrs),
        "INPUTS": _rows([None if ref is None else _literal(ref) for ref in record.inputs]),
        "OUTPUTS": _rows(outputs),
        "CODE": definitions or "# nothing of ours: the function is torch's own",
        "EXPRESSION": code.expression,
        "RUN": _runtime(where),
        "PIN": "    pin_cpu()" if pin else "    return",
        "RUNTIME_NAME": where.runtime or "nothing",
        "RUNTIME": repr(where.runtime),
    }
    text = _TEMPLATE.read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _attrs(attrs: Mapping[str, Attr]) -> str:
    def text(value: Attr) -> str:
        is_odd = isinstance(value, float) and not math.isfinite(value)
        return f'float("{value}")' if is_odd else repr(value)

    return "{" + ", ".join(f"{name!r}: {text(value)}" for name, value in attrs.items()) + "}"


def _runtime(where: Where) -> str:
    if where.runtime != "openvino":
        return ""
    head = f"\n\nSTRICT = {where.strict}\nEXACT = {pprint.pformat(dict(where.properties), width=100)}\n"
    return head + _OPENVINO.read_text()


def _word(verdict: Verdict) -> str:
    word: str = verdict.value.replace("_", " ")
    return word


def _rows(items: Sequence[object]) -> str:
    """Return a list as Python text, one item a line, one line for each tensor of an item that has some."""
    if not items:
        return "[]"
    lines = []
    for item in items:
        if isinstance(item, dict) and "tensors" in item:
            held = "".join(f"\n            {role!r}: {ref!r}," for role, ref in item["tensors"].items())
            rest = {name: value for name, value in item.items() if name != "tensors"}
            lines.append(f'{repr(rest)[:-1]}, "tensors": {{{held}\n        }}}}')
        else:
            lines.append(repr(item))
    return "[\n" + "".join(f"    {line},\n" for line in lines) + "]"


def _story(found: Reproduction) -> str:
    sentences = [
        *found.story,
        *(f"Likely cause: {cause.text}." for cause in found.causes[:1]),
    ]
    paragraphs = [textwrap.fill(sentence, 108, break_long_words=False) for sentence in sentences]
    # Nothing of a message may end the docstring that this becomes.
    return "\n".join(paragraphs).replace("\\", "/").replace('"""', "'''") or "As found."
