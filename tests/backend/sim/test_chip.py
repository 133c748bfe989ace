from __future__ import annotations

import re

import pytest

from parity.backend.arithmetic import Flush, Products, Reads
from parity.backend.sim.chip import IDEAL, Chip, Gap, Quirk, gap
from parity.backend.spec import Setting

STRICT, PRODUCTION = Setting.STRICT, Setting.PRODUCTION


def quirk(name="q", **changes):
    return Quirk(name=name, text="what it does", source="where it is written", **changes)


def chip(*quirks, modes=("eager",)):
    return Chip(name="c", title="a chip", quirks=quirks, modes=modes)


def test_a_chip_without_quirks_is_ideal():
    assert chip().arithmetic(STRICT, "eager") == IDEAL


def test_a_quirk_changes_its_field_in_its_setting_alone():
    made = chip(quirk(settings=(PRODUCTION,), arithmetic={"gelu": "tanh"}))
    assert made.arithmetic(PRODUCTION, "eager").gelu == "tanh"
    assert made.arithmetic(STRICT, "eager").gelu == "erf"


def test_a_quirk_changes_its_field_in_its_mode_alone():
    made = chip(quirk(modes=("lazy",), arithmetic={"int64": "i32"}), modes=("eager", "lazy"))
    assert made.arithmetic(STRICT, "lazy").int64 == "i32"
    assert made.arithmetic(STRICT, "eager").int64 == "i64"


def test_keys_of_a_mapping_are_merged():
    made = chip(
        quirk("a", arithmetic={"flush": {"bf16": Flush.BOTH}}),
        quirk("b", arithmetic={"flush": {"f16": Flush.RESULTS}}),
    )
    assert made.arithmetic(STRICT, "eager").flush == {
        "f32": Flush.NEVER,
        "bf16": Flush.BOTH,
        "f16": Flush.RESULTS,
    }


def test_products_without_an_order_change_from_run_to_run():
    unordered = Products(splits=3, ordered=False)
    made = chip(quirk(arithmetic={"products": {"f32": unordered}}))
    assert made.arithmetic(STRICT, "eager").run_to_run is False


@pytest.mark.parametrize(
    "quirks, text",
    [
        (
            [{"arithmetic": {"gelu": "tanh"}}, {"arithmetic": {"gelu": "erf"}}],
            "c: quirk 'q1' declares gelu a second time",
        ),
        (
            [{"arithmetic": {"overflow": {"f16": "max"}}}, {"arithmetic": {"overflow": {"f16": "inf"}}}],
            "c: overflow of f16 is declared twice",
        ),
        (
            [{"arithmetic": {"run_to_run": True, "products": {"f32": Products(splits=3, ordered=False)}}}],
            "c: run_to_run cannot be True beside products without an order",
        ),
    ],
)
def test_declarations_that_contradict_each_other_are_refused(quirks, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        chip(*(quirk(f"q{n}", **changes) for n, changes in enumerate(quirks)))


def test_the_same_field_may_differ_between_settings():
    made = chip(
        quirk("a", settings=(STRICT,), arithmetic={"gelu": "erf"}),
        quirk("b", settings=(PRODUCTION,), arithmetic={"gelu": "tanh"}),
    )
    assert made.arithmetic(PRODUCTION, "eager").gelu == "tanh"


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"arithmetic": {"gelus": "tanh"}}, "quirk 'q': Arithmetic has no field 'gelus'"),
        (
            {"arithmetic": {"gelu": "quick"}},
            "quirk 'q': gelu cannot be 'quick'; it is one of ('erf', 'tanh')",
        ),
        (
            {"arithmetic": {"ulps": {"sin": 2}}},
            "quirk 'q': ulps has no key 'sin'; it is one of ('exp', 'erf', 'tanh', 'rsqrt')",
        ),
        ({"arithmetic": {"ulps": {"exp": 0.5}}}, "quirk 'q': 0.5 is no value of ulps"),
        ({"arithmetic": {"flush": {"f32": "both"}}}, "quirk 'q': 'both' is no value of flush"),
        (
            {"arithmetic": {"products": {"f32": Products(splits=2, ordered=False)}}},
            "quirk 'q': products without an order need at least 3 splits",
        ),
        ({"casts": {"f64": "f23"}}, "quirk 'q' casts 'f64' to 'f23': both must be dtypes"),
        (
            {"arithmetic": {"gelu": "tanh"}, "modes": ("graph",)},
            "quirk 'q' names the mode 'graph': known are eager, lazy",
        ),
        ({}, "quirk 'q' changes nothing: say what it changes or remove it"),
    ],
)
def test_a_quirk_that_cannot_be_is_refused(changes, text):
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        quirk(**changes)


def test_a_quirk_needs_its_source():
    with pytest.raises(ValueError, match="needs a name, a text and a source"):
        Quirk(name="q", text="t", source="", arithmetic={"gelu": "tanh"})


def test_two_quirks_of_one_name_are_refused():
    with pytest.raises(ValueError, match="c: two quirks are called 'q'"):
        chip(quirk(graphs=True), quirk(arithmetic={"gelu": "tanh"}))


def test_a_gap_covers_its_operations_at_its_dtypes():
    missing = Gap(ops=("mm",), dtypes=("f16",))
    assert missing.covers("mm", {"f16"})
    assert not missing.covers("mm", {"f32"})
    assert not missing.covers("bmm", {"f16"})
    assert Gap(dtypes=("bf16",)).covers("anything", {"f32", "bf16"})


def test_a_gap_that_is_everything_or_names_no_dtype_is_refused():
    with pytest.raises(ValueError, match="leaves no chip"):
        Gap()
    with pytest.raises(ValueError, match="a gap names the dtype 'f17'"):
        Gap(ops=("mm",), dtypes=("f17",))


def test_a_gap_is_refused_under_strict_and_falls_back_in_production():
    refused, on_host = gap("g", "no such kernel", "a source", ops=("mm",))
    assert (refused.settings, refused.gaps[0].runs_on) == ((STRICT,), "")
    assert (on_host.settings, on_host.gaps[0].runs_on) == ((PRODUCTION,), "cpu")


def test_a_chip_without_a_quirk_keeps_the_others():
    made = chip(quirk("a", arithmetic={"gelu": "tanh"}), quirk("b", arithmetic={"int64": "i32"}))
    assert [each.name for each in made.without("a").quirks] == ["b"]
    with pytest.raises(ValueError, match="c has no quirk 'z'"):
        made.without("z")


def test_products_of_a_convolution_have_keys_of_their_own():
    made = chip(quirk(arithmetic={"products": {"conv.f32": Products(reads=Reads.HF32)}}))
    assert set(made.arithmetic(STRICT, "eager").products) == {"conv.f32"}
