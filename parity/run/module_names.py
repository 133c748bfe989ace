"""Where in a module a call happens, named so that two sides agree: by module path and function.

`layers.0.mlp/linear#2` is the second call of that function in one invocation of that module,
`layers.0.mlp@2` the second invocation of it. The outermost module is `.`, code outside any module
`outside`. No number counts over the whole run, so what one side does more shifts no other name.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from torch import nn

__all__ = ["OUTSIDE", "ROOT", "Frame", "Sites"]

OUTSIDE, ROOT = "outside", "."


@dataclass(slots=True, eq=False)
class Frame:
    """One invocation of a module: `path` as the model names it, `name` with the number of the invocation."""

    path: str
    name: str
    calls: Counter[str] = field(default_factory=Counter)


class Sites:
    """The invocations in progress, outermost first."""

    def __init__(self, model: nn.Module) -> None:
        self._paths: dict[int, list[str]] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            self._paths.setdefault(id(module), []).append(path or ROOT)
        self._frames = [Frame(OUTSIDE, OUTSIDE)]
        self._invocations: Counter[str] = Counter()

    @property
    def frame(self) -> Frame:
        """The innermost invocation."""
        return self._frames[-1]

    @property
    def is_outside(self) -> bool:
        """Whether no module is being invoked."""
        return len(self._frames) == 1

    def enter(self, module: nn.Module) -> Frame:
        """Begin an invocation of a module, under the path that it has in the module that calls it."""
        path = self._path_of(module)
        self._invocations[path] += 1
        number = self._invocations[path]
        self._frames.append(Frame(path, path if number == 1 else f"{path}@{number}"))
        return self.frame

    def _path_of(self, module: nn.Module) -> str:
        above = self.frame.path
        prefix = "" if above in (ROOT, OUTSIDE) else f"{above}."
        paths = [path for path in self._paths.get(id(module), ()) if path.startswith(prefix)]
        own = [path for path in paths if "." not in path.removeprefix(prefix)]
        # Made while the model runs: named after its class, below its caller.
        made = f"{prefix}{type(module).__name__}"
        found: list[str] = [*own, *paths, *self._paths.get(id(module), ()), made]
        return found[0]

    def leave(self) -> None:
        """End the innermost invocation."""
        if len(self._frames) > 1:
            self._frames.pop()

    def next(self, function: str) -> str:
        """Return what the next call of a function is named here, without counting it."""
        number = self.frame.calls[function] + 1
        return f"{self.frame.name}/{function}" + (f"#{number}" if number > 1 else "")

    def count(self, function: str) -> str:
        """Return the name of a call, which counts from here on."""
        name = self.next(function)
        self.frame.calls[function] += 1
        return name
