"""The suite's order is shuffled by a seed, so a test that leans on another one shows."""

import itertools
import sys


def order(project, **env):
    done = project.run(
        sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", **env
    )
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_a_seed_gives_one_order_and_another_seed_another(project):
    for name in "abcd":
        tests = "".join(f"def test_{number}():\n    pass\n\n\n" for number in range(8))
        project.write(f"tests/case/test_{name}.py", tests)
    first = order(project)
    assert order(project) == first
    assert order(project, PARITY_TEST_SEED="0") == first
    second = order(project, PARITY_TEST_SEED="1")
    assert second != first
    assert sorted(second) == sorted(first) != first
    files = [name.partition("::")[0] for name in first]
    assert sum(a != b for a, b in itertools.pairwise(files)) == len(set(files)) - 1
