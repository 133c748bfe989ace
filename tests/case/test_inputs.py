from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from parity.case import draw, inputs
from parity.case.case import Case, Step, TensorSpec
from parity.case.draw import key_text
from parity.case.dtype import DTYPES, dtype
from parity.case.family import dims
from parity.case.ids import CaseId
from parity.case.inputs import DISTRIBUTIONS, LAYOUTS, check, generate, values
from parity.case.layout import fits
from parity.errors import UsageError

GOLDEN = Path(__file__).parent / "data" / "golden_vectors.txt"


def golden_vectors():
    lines = [line for line in GOLDEN.read_text().splitlines() if not line.startswith("#")]
    return [(*head.split(" | "), bits.split()) for head, bits in zip(lines[::2], lines[1::2], strict=True)]


def spec(name="x", of="f32", shape=(4, 8), dist="normal", layout="contiguous", **options):
    return TensorSpec(name=name, dtype=DTYPES[of], shape=shape, dist=dist, layout=layout, options=options)


def case(id_text, *specs):
    step = Step(name="cat", op="cat", inputs=tuple(s.name for s in specs), outputs=("y",), attrs={"dim": 0})
    return Case(id=CaseId.parse(id_text), inputs=specs, steps=(step,))


def moved_vectors():
    """Golden vectors whose bits are no longer those in the file."""
    moved = []
    for id_text, name, of, shape, dist, options, bits in golden_vectors():
        tensor = TensorSpec(
            name=name, dtype=DTYPES[of], shape=dims(shape), dist=dist, options=json.loads(options)
        )
        made = values(tensor, key=key_text(CaseId.parse(id_text), name)).reshape(-1)
        width = made.dtype.itemsize
        if [f"{int(code):0{2 * width}x}" for code in made.view(f"u{width}")] != bits:
            moved.append(f"{id_text} {of} {dist}")
    return moved


def test_every_golden_vector_has_its_bits():
    assert len(golden_vectors()) >= 30
    assert moved_vectors() == []


def test_golden_vectors_cover_every_distribution():
    drawn = set(DISTRIBUTIONS) - {"checkpoint"}  # draws nothing: its bits are those of a file
    assert {vector[4] for vector in golden_vectors()} == drawn


def test_a_fraction_that_is_one_bit_short_moves_golden_vectors(monkeypatch):
    real = draw.normal_from_bits
    monkeypatch.setattr(draw, "normal_from_bits", lambda bits: real(bits & ~np.uint64(1 << 33)))
    assert "ops/softmax:dtype=f64,shape=4 f64 normal" in moved_vectors()


def test_an_encoder_that_truncates_moves_golden_vectors(monkeypatch):
    def truncating(flat, to):
        drop = np.uint64(52 - to.mantissa_bits)
        return real(((flat.view(np.uint64) >> drop) << drop).view(np.float64), to)

    real = inputs.encode
    monkeypatch.setattr(inputs, "encode", truncating)
    assert "ops/softmax:dtype=bf16,shape=8 bf16 normal" in moved_vectors()


@pytest.mark.parametrize("of", ["f32", "bf16", "f16", "e4m3fn", "f64"])
@pytest.mark.parametrize("dist", [d for d in DISTRIBUTIONS if not DISTRIBUTIONS[d].required and d != "codes"])
@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (3, 4, 6)])
def test_layouts_share_every_bit(of, dist, shape):
    options = {"value": 1.5} if dist == "constant" else {}
    if DTYPES[of].kind not in DISTRIBUTIONS[dist].kinds or (dist in ("mask", "alibi") and len(shape) < 2):
        return
    plain = generate(case("ops/x:dist=a", spec(of=of, shape=shape, dist=dist, **options)))["x"]
    for layout in LAYOUTS:
        if fits(layout, shape) and layout != "expanded":
            id_text = f"ops/x:dist=a,layout={layout}"
            placed = generate(case(id_text, spec(of=of, shape=shape, dist=dist, layout=layout, **options)))[
                "x"
            ]
            assert placed.digest() == plain.digest()


def test_a_parameter_that_generates_gives_other_values():
    first = generate(case("ops/x:dtype=f32", spec()))["x"]
    assert first.digest() != generate(case("ops/x:dtype=f32,extra=1", spec()))["x"].digest()


def test_two_tensors_of_a_case_have_other_values():
    made = generate(case("ops/x", spec("a"), spec("b")))
    assert list(made) == ["a", "b"]
    assert made["a"].digest() != made["b"].digest()


def test_an_exponent_scales_before_rounding():
    plain = values(spec(of="f16"), key="k").astype(np.float64)
    scaled = values(spec(of="f16", exponent=-20), key="k").astype(np.float64)
    exact = values(spec(of="f64"), key="k") * 2.0**-20
    assert (scaled == exact.astype(np.float16)).all()
    assert not (scaled == plain * 2.0**-20).all()


def test_integers_that_do_not_fit_their_type_are_an_error():
    with pytest.raises(UsageError, match=r"^values from 0 to 3840 do not fit u8$"):
        values(spec(of="u8", shape=(16,), dist="range", step=256), key="k")


def test_a_scalar_and_an_empty_tensor_are_made():
    assert values(spec(shape=()), key="k").shape == ()
    assert values(spec(shape=(0, 4)), key="k").shape == (0, 4)


@pytest.mark.parametrize(
    "wrong, text",
    [
        ({"dist": "nromal"}, "tensor 'x': unknown dist 'nromal'; did you mean 'normal'?"),
        ({"layout": "striped"}, "tensor 'x': unknown layout 'striped'; did you mean 'strided'?"),
        ({"shape": (2, -1)}, "tensor 'x': negative shape (2, -1)"),
        ({"shape": (), "layout": "strided"}, "tensor 'x': layout 'strided' does not fit shape ()"),
        ({"shape": (4,), "layout": "transposed"}, "tensor 'x': layout 'transposed' does not fit shape (4,)"),
        ({"shape": (1, 1), "layout": "expanded"}, "tensor 'x': layout 'expanded' does not fit shape (1, 1)"),
        ({"shape": (0, 4), "layout": "expanded"}, "tensor 'x': layout 'expanded' does not fit shape (0, 4)"),
        ({"of": "i8"}, "tensor 'x': dist 'normal' does not make i8 values"),
        ({"dist": "bool"}, "tensor 'x': dist 'bool' does not make f32 values"),
        ({"axes": 1}, "tensor 'x': dist 'normal' has no option 'axes'"),
        (
            {"dist": "cancel", "axes": 1},
            "tensor 'x': dist 'cancel' has no option 'axes'; did you mean 'axis'?",
        ),
        ({"dist": "cancel", "axis": 0.5}, "tensor 'x': dist 'cancel': option 'axis' cannot be 0.5"),
        ({"dist": "cancel", "axis": True}, "tensor 'x': dist 'cancel': option 'axis' cannot be True"),
        ({"of": "i64", "dist": "index"}, "tensor 'x': dist 'index' needs option 'high'"),
        (
            {"of": "i64", "dist": "range", "exponent": 1},
            "tensor 'x': dist 'range' has no option 'exponent'",
        ),
    ],
)
def test_a_spec_that_has_no_values_is_refused_with_its_reason(wrong, text):
    with pytest.raises(UsageError) as refused:
        check(spec(**wrong))
    assert str(refused.value) == text
    with pytest.raises(UsageError):
        generate(case("ops/x", spec(**wrong)))


def test_a_spec_that_has_values_is_accepted():
    check(spec())
    check(spec(of="i64", dist="index", high=3))
    check(spec(dtype("bfloat16").name, "bf16", (), "constant", value="-inf"))
