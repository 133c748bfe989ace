"""Hosts that share nothing but a copied folder: other numpy, folder, home, user and case files each."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

CHECKOUT = Path(__file__).parents[2]
CASES = '''
from parity.case.case import Role, Step, TensorSpec
from parity.case.dtype import dtype
from parity.case.family import Parts, family


@family("port/plain", rows=("3", "5"))
def plain(p):
    """No weights."""
    x = TensorSpec(name="x", dtype=dtype("bf16"), shape=(int(p.rows), 16))
    softmax = Step(name="softmax", op="softmax", inputs=("x",), outputs=("y",), attrs={"dim": -1})
    return Parts(inputs=(x,), steps=(softmax,))


@family("port/layer", rows=("7",))
def layer(p):
    """A weight of a checkpoint."""
    f32 = dtype("f32")
    x = TensorSpec(name="x", dtype=f32, shape=(int(p.rows), 8))
    options = {"file": "tiny/model.safetensors", "digest": "DIGEST", "tensor": "head.weight"}
    w = TensorSpec(name="w", dtype=f32, shape=(4, 8), dist="checkpoint", role=Role.WEIGHT, options=options)
    return Parts(inputs=(x, w), steps=(Step(name="linear", op="linear", inputs=("x", "w"), outputs=("y",)),))
'''


def safetensors(values):
    """A checkpoint of one tensor: the container's length, header and elements."""
    header = {
        "head.weight": {"dtype": "F32", "shape": list(values.shape), "data_offsets": [0, values.nbytes]}
    }
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values.astype("<f4").tobytes()


WEIGHTS = safetensors(np.arange(32, dtype=np.float32).reshape(4, 8) / 32)


@dataclass
class Host:
    """A machine: its working folder holds `cases` and, unless removed, `weights`."""

    folder: Path
    numpy: Path | None = None
    user: int | None = None

    def parity(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command as this host's user, in its folder, with its numpy."""
        path = [str(place) for place in (self.numpy, CHECKOUT) if place]
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PARITY_")},
            "PYTHONPATH": os.pathsep.join(path),
            "PARITY_WEIGHTS": str(self.folder / "weights"),
            "HOME": str(self.folder),
            "USER": self.folder.name,
            "LOGNAME": self.folder.name,
            "COLUMNS": "200",
        }
        return subprocess.run(
            [sys.executable, "-m", "parity", *arguments],
            cwd=self.folder,
            env=environ,
            user=self.user,
            capture_output=True,
            text=True,
            timeout=300,
        )


@pytest.fixture(scope="session")
def other_numpy(tmp_path_factory):
    """Another numpy than the one that runs the tests, in a folder of its own."""
    version = "2.2.6" if np.__version__ != "2.2.6" else "2.2.5"
    folder = tmp_path_factory.mktemp("numpy")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, f"numpy=={version}"], check=True)
    return folder


@pytest.fixture(scope="session")
def other_user():
    """Another user who may run this Python, None where there is none: names and home differ all the same."""
    nobody = 65534
    try:
        subprocess.run([sys.executable, "-c", ""], user=nobody, check=True)
    except (PermissionError, subprocess.CalledProcessError):  # not root, or a Python in root's own folder
        return None
    return nobody


@pytest.fixture
def host(tmp_path_factory):
    """Set up a host: `host("a")`."""

    def made(name, *, numpy=None, user=None):
        folder = tmp_path_factory.mktemp(name)
        (folder / "cases").mkdir()
        digest = f"sha256:{hashlib.sha256(WEIGHTS).hexdigest()}"
        (folder / "cases" / "port.py").write_text(CASES.replace("DIGEST", digest))
        (folder / "weights" / "tiny").mkdir(parents=True)
        (folder / "weights" / "tiny" / "model.safetensors").write_bytes(WEIGHTS)
        if user is not None:
            for place in (folder, *folder.rglob("*")):
                os.chown(place, user, user)
            for above in (folder.parent, folder.parent.parent):
                above.chmod(0o755)
        return Host(folder=folder, numpy=numpy, user=user)

    return made


@pytest.fixture
def carry():
    """Copy a folder from one host to another, as an engineer with a disk does."""

    def copied(source, name, target):
        shutil.copytree(source.folder / name, target.folder / name)
        if target.user is not None:
            for place in ((target.folder / name), *(target.folder / name).rglob("*")):
                os.chown(place, target.user, target.user)

    return copied
