"""The trained model that is shipped: its bytes, its scores and what it says, as its README has them."""

from __future__ import annotations

import hashlib

import pytest

from parity.engine import Engine, SamplingParams

DIGEST = "d65b67cdb2caf3b61ac53e27b457f3d2c49a2c028ce83391cbf7a7708eeb08c8"
SAID = """
Alas, I'll not be a moiety of my heart.

LADY ANNE:
I'll not be so, my lord.

GLOUCESTER:
I am a ta"""


def test_the_weights_are_those_that_its_readme_names(trained):
    assert hashlib.sha256((trained / "model.safetensors").read_bytes()).hexdigest() == DIGEST
    assert DIGEST in (trained / "README.md").read_text()


def test_scores_and_continuation_in_float64_are_those_that_its_readme_names(trained):
    engine = Engine(trained, dtype="f64", check=True, canary=True)
    assert engine.text.encode("ROMEO:") == [861, 28]
    best = engine.score("ROMEO:")[-1].topk(5)
    assert best.indices.tolist() == [201, 9, 390, 294, 527]
    assert best.values.tolist() == pytest.approx(
        [13.763420, 5.683287, 5.137986, 3.987217, 3.477219], abs=1e-6
    )
    (output,) = engine.generate(["ROMEO:"], SamplingParams(max_tokens=48))
    assert output.text == SAID
