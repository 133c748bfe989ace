"""Find the module that a case names as `package.module:callable`, with the inputs that it is run on.

The callable takes nothing and returns `(model, args, kwargs)`, either of the last two left out, or an
object with `.model` and `.inputs`. It is looked for in the folder where parity was started, beside the
case file, and among what is installed. Does not run the model.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from parity.backend.torch_tensor import torch_dtype
from parity.case.case import Case
from parity.case.dtype import dtype
from parity.errors import UsageError, near_miss

__all__ = ["Target", "find_target"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A model and what one run of it is given."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def to(self, device: torch.device, of: torch.dtype | None = None) -> Target:
        """Return it on a device, its floats of a type where one is named."""

        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value.to(device, of if of is not None and value.is_floating_point() else value.dtype)
            if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
                return type(value)(moved(item) for item in value)
            return {k: moved(v) for k, v in value.items()} if type(value) is dict else value

        model = self.model.to(device) if of is None else self.model.to(device, of)
        return Target(model=model, args=moved(self.args), kwargs=moved(dict(self.kwargs)))


def find_target(case: Case) -> Target:
    """Return what the option `target` of a case names, of the type in `dtype`, in host memory.

    Random numbers that the callable draws from torch are the same in every process. Raises UsageError
    with the near miss for what cannot be imported, and for what is no model.
    """
    assert case.subject is not None
    options = case.subject.options
    text = str(options.get("target"))
    where = f"{case.where}: target '{text}'"
    module_name, separator, name = text.partition(":")
    if not (separator and name and all(part.isidentifier() for part in module_name.split("."))):
        raise UsageError(f"{where} is not written package.module:callable")
    with _importable(case):
        make = _attribute(_module(module_name, where), name, where)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                made = make()
        except Exception as error:
            raise UsageError(f"{where} raised {type(error).__name__}: {_line(error)}") from error
    of = options.get("dtype")
    return _target(made, where).to(torch.device("cpu"), None if of is None else torch_dtype(dtype(str(of))))


@contextmanager
def _importable(case: Case) -> Iterator[None]:
    """Let Python import from the working folder and from that of the case file."""
    before = list(sys.path)
    beside = Path(case.source.rpartition(":")[0]).parent if case.source else Path()
    sys.path[:0] = [str(Path.cwd()), str(beside.resolve())]
    try:
        yield
    finally:
        sys.path[:] = before


def _module(name: str, where: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if not f"{name}.".startswith(f"{missing}."):
            raise UsageError(f"{where} imports '{missing}', which is not installed") from error
        parent, _, last = missing.rpartition(".")
        paths = getattr(sys.modules.get(parent), "__path__", None) if parent else sys.path[:2]
        near = near_miss(last, (found.name for found in pkgutil.iter_modules(paths)))
        raise UsageError(f"{where}: there is no module '{missing}' here{near}") from error
    except Exception as error:
        raise UsageError(f"{where} cannot be imported: {type(error).__name__}: {_line(error)}") from error


def _attribute(module: Any, name: str, where: str) -> Callable[[], Any]:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{where}: {module.__name__} has no '{name}'{near_miss(part, dir(found))}")
        found = getattr(found, part)
    if not callable(found):
        raise UsageError(f"{where} is a {type(found).__name__}, not a callable")
    return found  # type: ignore[no-any-return] # just asked


def _target(made: Any, where: str) -> Target:
    if hasattr(made, "model") and hasattr(made, "inputs"):
        made = (made.model, made.inputs)
    parts = made if isinstance(made, tuple) else (made,)
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    for part in parts[1:]:
        if isinstance(part, Mapping):
            kwargs |= dict(part)
        else:
            args += tuple(part) if isinstance(part, (tuple, list)) else (part,)
    if not isinstance(parts[0], nn.Module) or len(parts) > 3:
        raise UsageError(
            f"{where} returned {type(made).__name__}, not (model, args, kwargs) with a torch.nn.Module, "
            "nor an object with .model and .inputs"
        )
    return Target(model=parts[0], args=args, kwargs=kwargs)


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")[:300]
