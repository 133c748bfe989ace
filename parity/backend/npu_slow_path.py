"""Which kernels ran on Ascend's AI CPU: still on the chip, far slower, and by other code.

They count as executed, under a name that shows it. Found by torch_npu's warning, said once in a
process, and by the profiler's table. Does not start the profiler; `npu` does.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import re

from parity.backend.base import SLOW_PATH, Node, Witness

__all__ = ["WARNING", "SlowPath", "ai_cpu_kernels"]

# op-plugin, ArgSortKernelNpuOpApi.cpp, as quoted in vllm-ascend#16865: "kernel [ArgSort] can not
# support dtype int32 or int64 on AiCore, Now this kernel is running on AiCpu." (DEVICES.md 3.4).
WARNING = r"kernel \[(?P<op>\w+)\] can not support dtype [^,]*, Now this kernel is running on AiCpu"
_WARNING = re.compile(WARNING)
_INTEGERS = ("i32", "i64")
# kernel_details.csv: `Accelerator Core` is DEVICES.md 1.6; the other columns are not verified there.
_CORE, _TYPES, _NAMES = "Accelerator Core", "Output Data Types", ("Type", "Name")
_DTYPES = {
    "BF16": "bf16",
    "BOOL": "bool",
    "DOUBLE": "f64",
    "FLOAT": "f32",
    "FLOAT16": "f16",
    "INT32": "i32",
    "INT64": "i64",
    "INT8": "i8",
    "UINT8": "u8",
}


def ai_cpu_kernels(table: str, *, device: str) -> list[Node] | None:
    """Return the kernels of a kernel_details.csv that ran on the AI CPU, None where it does not say."""
    rows = csv.DictReader(io.StringIO(table.lstrip("\ufeff")))
    if _CORE not in (rows.fieldnames or ()):
        return None
    return [_kernel(row, device) for row in rows if (row[_CORE] or "").strip().upper() == "AI_CPU"]


def _kernel(row: dict[str, str], device: str) -> Node:
    name = next((row[column] for column in _NAMES if row.get(column)), "?")
    first = (row.get(_TYPES) or "").partition(";")[0].strip().strip('"').removeprefix("DT_")
    return Node(kind=f"{SLOW_PATH}{name}", device=device, precision=_DTYPES.get(first, "?"))


class SlowPath:
    """What one process is known to run on the AI CPU."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], str] = {}  # a node's kind and precision, and the kernel

    def revise(self, witness: Witness, said: list[str], profiled: list[Node], *, device: str) -> Witness:
        """Return the witness of a step with its AI CPU kernels, those of earlier warnings included."""
        integers = [node for node in witness.executed if node.precision in _INTEGERS]
        for match in (found for text in said for found in _WARNING.finditer(text)):
            # Which of them it was is not said; none of them warns again.
            self._known.update({(node.kind, node.precision): match["op"] for node in integers})
        warned = [
            Node(
                kind=SLOW_PATH + self._known[node.kind, node.precision],
                device=device,
                precision=node.precision,
            )
            for node in integers
            if (node.kind, node.precision) in self._known
        ]
        ran = {node.precision for node in witness.executed}
        only = ran.pop() if len(ran) == 1 else "?"
        slow = [
            dataclasses.replace(node, precision=only) if node.precision == "?" else node
            for node in (*warned, *profiled)
        ]
        return dataclasses.replace(witness, executed=(*witness.executed, *dict.fromkeys(slow)))
