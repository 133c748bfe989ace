"""README's command for a vendor's image only adds: torch, numpy and the vendor's plugin stay, byte by byte.

The image and the index that pip may take from are fakes, so newer versions can be held out to it.
`parity doctor` is then asked what it thinks of the image, before and after torch is replaced.
"""

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VENDOR = {
    "torch": ("2.10.0a0+gitabc", ()),
    "numpy": ("1.23.5", ()),
    "habana-torch-plugin": ("1.24.0.462", ("torch", "numpy")),
    "distro-info": ("1.1+ubuntu0.1", ()),
}
INDEX = {
    "torch": ("2.13.0", ("numpy>=2",)),
    "numpy": ("2.4.6", ()),
    "pyarrow": ("26.0.1", ()),
    "rich": ("15.0.0", ()),
    "tomli": ("2.5.0", ()),
    "typer": ("0.29.1", ("rich>=13",)),
    "typing_extensions": ("4.16.0", ()),
}
# Where a package's module is not called as the package is.
MODULES = {"habana-torch-plugin": "habana_frameworks/torch"}
ADDED = {"chip-parity", "pyarrow", "rich", "typer"} | (
    {"tomli", "typing_extensions"} if sys.version_info < (3, 11) else set()
)


def wheel(folder, name, version, requires):
    """Write a wheel with one package that says its version, as torch does also in a file of its own."""
    folder.mkdir(exist_ok=True)
    stem = f"{name.replace('-', '_')}-{version}"
    info = f"{stem}.dist-info"
    module = MODULES.get(name, name.replace("-", "_"))
    files = {
        f"{module}/__init__.py": f"__version__ = {version!r}\n",
        f"{module}/version.py": f"__version__ = {version!r}\n",
        f"{info}/METADATA": "\n".join(
            ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
            + [f"Requires-Dist: {requirement}" for requirement in requires]
        ),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for place, text in files.items():
            archive.writestr(place, text)
    return path


class Image:
    """A fresh environment with a vendor's packages, and an index that offers newer ones."""

    def __init__(self, folder, *, vendor=None, index=None, real=()):
        self.folder = folder
        venv.create(folder / "image", with_pip=True)
        self.site = next((folder / "image").glob("lib/python*/site-packages"))
        for path in real:
            (self.site / path.name).symlink_to(path)
        for name, (version, requires) in {**INDEX, **(index or {})}.items():
            wheel(folder / "index", name, version, requires)
        installed = {name: what for name, what in {**VENDOR, **(vendor or {})}.items() if what}
        wheels = [wheel(folder / "vendor", name, *what) for name, what in installed.items()]
        # Installed from files, as vendors do: `pip freeze` would then name a file instead of a version.
        self.shell("python3 -m pip install -q --no-deps " + " ".join(map(str, wheels)))
        self.before = self.packages()
        self.bytes = self.read()

    def shell(self, command):
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
        return subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env={
                **keep,
                "PATH": f"{self.folder / 'image/bin'}{os.pathsep}{os.environ['PATH']}",
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "PIP_FIND_LINKS": str(self.folder / "index"),
                "PIP_NO_INDEX": "1",
            },
            text=True,
            capture_output=True,
        )

    def packages(self):
        lines = self.shell("python3 -m pip list --format=freeze").stdout.split()
        return dict(line.split("==") for line in lines)

    def read(self):
        """The content of every file of the vendor's packages."""
        names = [name.replace("-", "_") for name in VENDOR] + ["habana_frameworks"]
        folders = [path for name in names for path in self.site.glob(f"{name}*") if not path.is_symlink()]
        return {
            path: path.read_bytes()
            for folder in folders
            for path in folder.rglob("*")
            if path.suffix != ".pyc" and path.is_file()
        }

    def install(self, built, command=None):
        """Run the command with the wheel in place of the checkout, which could not be built offline."""
        assert (command or readme()).endswith(" .")
        return self.shell(f"{(command or readme())[:-1]}{built}")


def readme():
    lines = re.findall(r"^python3 -m pip list .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(lines) == 1
    return lines[0]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Our own wheel, with the dependencies that pyproject.toml declares."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_the_command_adds_what_is_missing_and_touches_nothing_else(tmp_path, built):
    image = Image(tmp_path)
    done = image.install(built)
    assert done.returncode == 0, done.stdout + done.stderr
    after = image.packages()
    assert {name: after[name] for name in image.before} == image.before
    assert set(after) - set(image.before) == ADDED
    assert image.read() == image.bytes
    assert (after["torch"], after["numpy"]) == ("2.10.0a0+gitabc", "1.23.5")


def test_where_a_newer_numpy_is_needed_it_refuses_and_plain_pip_would_not(tmp_path, built):
    image = Image(tmp_path, index={"pyarrow": ("26.0.1", ("numpy>=2",))})
    done = image.install(built)
    assert done.returncode != 0
    assert "numpy==1.23.5" in done.stdout + done.stderr
    assert image.packages() == image.before
    assert image.read() == image.bytes
    # The fault that the command is there to prevent, so that the comparison above is known to see it.
    assert image.install(built, "python3 -m pip install .").returncode == 0
    assert image.packages()["numpy"] == "2.4.6"
    assert image.read() != image.bytes


@pytest.mark.parametrize("name, version", [("torch", "2.4.0a0+gitabc"), ("numpy", "1.21.6")])
def test_what_is_too_old_is_named_and_left(tmp_path, built, name, version):
    image = Image(tmp_path, vendor={name: (version, ())})
    done = image.install(built)
    assert done.returncode != 0
    assert f"{name}=={version}" in done.stdout + done.stderr
    assert image.packages() == image.before
    assert image.read() == image.bytes


@pytest.fixture
def running(tmp_path, built):
    """An image in which our command can run: what the checkout runs with, but the vendor's torch."""
    here = Path(sysconfig.get_paths()["purelib"])
    own = ("torch", "functorch", "chip_parity", "pip", "setuptools", "_", ".")
    real = [path for path in here.iterdir() if not path.name.startswith(own) and path.suffix != ".pth"]
    image = Image(tmp_path, vendor={"numpy": None}, real=real)
    done = image.install(built)
    assert done.returncode == 0, done.stdout + done.stderr
    after = image.packages()
    assert set(after) - set(image.before) == {"chip-parity"}
    assert {name: after[name] for name in image.before} == image.before
    assert image.read() == image.bytes
    return image


def findings(image):
    """What `parity doctor` says: subject -> (state, detail), and its exit code."""
    done = image.shell("parity doctor --json doctor.json")
    assert done.stderr == ""
    report = json.loads((image.folder / "doctor.json").read_text())
    assert report["exit_code"] == done.returncode
    return {f["subject"]: (f["state"], f["detail"]) for f in report["findings"]}, done.returncode


def test_doctor_says_that_the_image_is_the_vendors_and_not_that_it_is_broken(running):
    found, code = findings(running)
    assert code == 0, found
    assert found["torch"] == (
        "ok",
        "2.10.0a0+gitabc, as pip recorded it, a vendor's own build: nothing may replace it",
    )
    assert found["hpu torch"] == ("ok", "habana-torch-plugin 1.24.0.462 is built for torch 2.10")
    assert found["hpu plugin"] == ("ok", "habana-torch-plugin 1.24.0.462 can be imported")
    assert found["parity"][0] == "ok"


def test_doctor_names_a_torch_that_was_replaced_behind_pips_back(running):
    (running.site / "torch/version.py").write_text('__version__ = "2.13.0+cpu"\n')
    found, code = findings(running)
    assert code == 1
    assert found["torch"] == (
        "broken",
        "torch was replaced: its files say 2.13.0+cpu, pip recorded 2.10.0a0+gitabc",
    )


def test_doctor_names_a_torch_that_pip_replaced(running):
    assert running.shell("python3 -m pip install -q --no-deps torch==2.13.0").returncode == 0
    found, code = findings(running)
    assert code == 1
    assert found["torch"] == ("ok", "2.13.0, as pip recorded it")
    assert found["hpu torch"] == (
        "broken",
        "habana-torch-plugin 1.24.0.462 is built for torch 2.10, here is 2.13.0",
    )
