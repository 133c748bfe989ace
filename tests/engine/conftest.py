"""Tiny checkpoints of every family, made once for all tests of a worker, and engines over them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from parity.engine import Engine

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests are folders of files, not packages


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A folder of a family of `families.FAMILIES`, float32; nobody may write to it."""
    from engine.families import make

    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            make(name, made[name])
        return made[name]

    return get


@pytest.fixture(scope="session")
def tiny(checkpoint):
    """The smallest Llama: for what does not depend on the network."""
    return checkpoint("smallest")


@pytest.fixture(scope="session")
def trained():
    return Path(__file__).parents[2] / "cases" / "models" / "tiny-llama"


@pytest.fixture
def engine(tiny):
    """Make an engine over the smallest Llama, float64, proving page conservation at every step."""

    def get(folder=tiny, **options):
        return Engine(folder, **{"dtype": "f64", "kv_tokens": 1024, "check": True, **options})

    return get
