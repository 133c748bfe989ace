"""What holds for every test: one thread for each of the workers, and an order that hides nothing.

Imports no torch, so the torch-free tests can be collected where there is none.
"""

from __future__ import annotations

import os
import random

# Before torch or numpy is loaded, here and in every child: pytest's workers already use all cores,
# and two spinning threads on two virtual cores are twenty times slower than one.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
# What a developer has set must not reach an expected text or a verdict.
for _name in ("NO_COLOR", "FORCE_COLOR", "CI", "COLUMNS", "PYTHONWARNINGS"):
    os.environ.pop(_name, None)

SEED = os.environ.get("PARITY_TEST_SEED", "0")


def pytest_report_header():
    return f"order: shuffled with PARITY_TEST_SEED={SEED}"


def pytest_collection_modifyitems(items):
    """Shuffle files, and tests within a file: fixtures of a file are still made once.

    The same seed gives the same order, which xdist needs of its workers; another one gives another.
    """
    by_file = {}
    for item in sorted(items, key=lambda item: item.nodeid):
        by_file.setdefault(item.path, []).append(item)
    shuffle = random.Random(SEED).shuffle
    groups = list(by_file.values())
    shuffle(groups)
    for group in groups:
        shuffle(group)
    items[:] = [item for group in groups for item in group]
