"""A folder of packages as a machine might have it: a torch of two files, plugins that misbehave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

from parity.backend.doctor_facts import PLUGINS, VARIABLES

CHECKOUT = Path(__file__).parents[2]
MARKER = "IMPORTED"  # what a module of `Site.module` leaves beside itself when it is imported
_EXAMINE = """
import json, sys
from pathlib import Path
from parity.backend.doctor import examine
found = examine(timeout_s=float(sys.argv[1]), root=Path(sys.argv[2]))
heavy = {"torch", "numpy", "pyarrow", "torch_npu", "habana_frameworks"} & set(sys.modules)
print(json.dumps([sorted(heavy), [[f.subject, f.state.value, f.detail, f.remedy] for f in found]]))
"""


class Site:
    """Where pip installs; starts with a torch, numpy and pyarrow that nothing is wrong with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True)
        self.torch("2.9.0+cpu")
        for name, version in (("numpy", "2.4.6"), ("pyarrow", "26.0.1")):
            self.module(name, version)
            self.record(name, version)

    def module(self, name: str, version: str = "", body: str = "") -> Path:
        """Write a package that says its version; `body` runs when it is imported."""
        place = self.folder.joinpath(*name.split("."))
        place.mkdir(parents=True, exist_ok=True)
        text = f"__version__ = {version!r}\nfrom pathlib import Path\n"
        text += f"(Path(__file__).parent / {MARKER!r}).touch()\n"
        (place / "__init__.py").write_text(text + textwrap.dedent(body))
        return place

    def was_imported(self, name: str) -> bool:
        return self.folder.joinpath(*name.split("."), MARKER).exists()

    def record(self, name: str, version: str, *, entry_points: str = "") -> Path:
        """Write what pip leaves of an installation."""
        place = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        place.mkdir(exist_ok=True)
        (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if entry_points:
            (place / "entry_points.txt").write_text(f"[torch.backends]\n{entry_points}\n")
        return place

    def torch(self, version: str, *, recorded: str | None = None, cuda: str | None = None, body: str = ""):
        """Write torch's files and its record; importing it loads the plugins, as torch does."""
        for old in self.folder.glob("torch-*.dist-info/*"):
            old.unlink()
            old.parent.rmdir()
        place = self.module("torch", version, _AUTOLOAD + textwrap.dedent(body))
        (place / "version.py").write_text(f"__version__ = {version!r}\ncuda = {cuda!r}\nhip = None\n")
        if recorded != "":
            self.record("torch", recorded or version)

    def autoloaded(self, name: str, version: str, body: str) -> None:
        """Add a plugin that torch loads by itself; `body` is the function that it then calls."""
        function = "def _autoload():\n" + textwrap.indent(textwrap.dedent(body), "    ")
        self.module(name, version, function)
        self.record(name, version, entry_points=f"{name}_device = {name}:_autoload")

    def examine(self, *more: Path, timeout_s: float = 60, root: Path = Path("/nowhere"), **variables: str):
        """Run `examine` in a process that sees this site (and `more`) alone.

        Returns subject -> list of (state, detail, remedy), and holds that nothing heavy was imported.
        """
        done = subprocess.run(
            [sys.executable, "-S", "-c", _EXAMINE, str(timeout_s), str(root)],
            cwd=self.folder.parent,  # Python looks for modules there first
            env=self.environ(*more, **variables),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        heavy, findings = json.loads(done.stdout)
        assert heavy == []
        found: dict[str, list[tuple[str, str, str]]] = {}
        for subject, *rest in findings:
            found.setdefault(subject, []).append(tuple(rest))
        return found

    def environ(self, *more: Path, **variables: str) -> dict[str, str]:
        """The variables of a user who has only these packages and set only these variables."""
        names = {variable.name for variable in VARIABLES} | {p.sdk_variable for p in PLUGINS}
        kept = {n: v for n, v in os.environ.items() if n not in names | {"TORCH_DEVICE_BACKEND_AUTOLOAD"}}
        path = os.pathsep.join(map(str, (self.folder, *more, CHECKOUT)))
        return {**kept, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **variables}


# As torch/__init__ does it (DEVICES.md 3.0): every entry point, and the failure's words.
_AUTOLOAD = """
import os
from importlib.metadata import entry_points
if os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD", "1") == "1":
    for _point in entry_points(group="torch.backends"):
        try:
            _point.load()()
        except Exception as _error:
            raise RuntimeError(f"Failed to load the backend extension: {_point.name}") from _error
"""
