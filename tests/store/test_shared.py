"""What a document names by number: every number names something, and everything is named."""

import pytest

from tests.store.test_schema import AGAIN, FILE, at, decoded, named, refusal

# The numbers by which parts of a document name others, and how many there are to name.
NAMES = [
    (("steps", 0, "inputs", 0), 7),
    (("steps", 0, "outputs", 1), 7),
    (("steps", 0, "repeats", 0, 0), 7),
    (("results", 0), 7),
    (("unobserved", 1), 7),
    (("steps", 0, "witness"), 1),
    (("witnesses", 0, "executed", 1), 1),
    (("witnesses", 0, "moved", 0), 1),
    (("witnesses", 0, "host", 0), 1),
]


@pytest.mark.parametrize("path, size", NAMES)
def test_a_number_that_names_nothing_is_refused(document, path, size):
    for number in (size, size + 1, 2**70):
        at(document, path[:-1])[path[-1]] = number
        assert refusal(document).startswith(f"{FILE}: field '{named(path)}' must be a number below {size}, ")


@pytest.mark.parametrize("path", [path for path, _ in NAMES])
@pytest.mark.parametrize("value", [-1, True, False, 0.0, "0", [0]])
def test_what_is_no_number_names_nothing(document, path, value):
    """Python counts from the end with -1, and takes true for 1 and false for 0."""
    at(document, path[:-1])[path[-1]] = value
    assert (
        refusal(document) == f"{FILE}: field '{named(path)}' must be an integer >= 0, got {value!r}. {AGAIN}"
    )


@pytest.mark.parametrize(
    "path", [path for path, _ in NAMES if path not in {("steps", 0, "inputs", 0), ("steps", 0, "witness")}]
)
def test_only_an_input_and_a_witness_may_be_none(document, path):
    at(document, path[:-1])[path[-1]] = None
    assert refusal(document) == f"{FILE}: field '{named(path)}' must be an integer >= 0, got None. {AGAIN}"


@pytest.mark.parametrize("table", ["tensors", "witnesses", "nodes"])
@pytest.mark.parametrize("at_end", [True, False])
def test_what_nothing_names_is_refused(document, table, at_end):
    """Even a second one of the same: a writer would have named the first again."""
    entries = document[table]
    number = len(entries) if at_end else 0
    if at_end:
        entries.append(dict(entries[0]))
    else:
        renumbered(document, table)
    said = refusal(document)
    assert said.startswith(f"{FILE}: field '{table}[{number}]' must be in use, got {{") and said.endswith(
        AGAIN
    )


def renumbered(document, table):
    """Put a copy of its first entry before a table, and let all numbers name what they named."""
    document[table].insert(0, dict(document[table][0]))
    names = {"tensors": NAMES[:5], "witnesses": NAMES[5:6], "nodes": NAMES[6:]}[table]
    for group in {path[:-1] for path, _ in names} | (
        {("steps", 1, "inputs")} if table == "tensors" else set()
    ):
        numbers = at(document, group)
        for key in ["witness"] if isinstance(numbers, dict) else range(len(numbers)):
            if numbers[key] is not None:
                numbers[key] += 1


def test_a_witness_that_no_step_names_is_refused_though_it_names_nodes(document):
    del document["steps"][0]["witness"]
    assert refusal(document) == (
        f"{FILE}: field 'witnesses[0]' must be in use, "
        f"got {{'borrowed': 2, 'executed': [...], 'host': [...], 'moved': [...]}}. {AGAIN}"
    )


def test_a_document_that_only_a_failure_fills_names_nothing(document):
    """Lists may be empty: then there is no number at all."""
    document["steps"] = [{**document["steps"][1], "inputs": []}]
    document |= {"results": [], "unobserved": [], "tensors": [], "witnesses": [], "nodes": []}
    assert decoded(document).steps[0].inputs == ()
    document["steps"][0]["outputs"] = [0]
    assert (
        refusal(document) == f"{FILE}: field 'steps[0].outputs[0]' must be a number below 0, got 0. {AGAIN}"
    )
