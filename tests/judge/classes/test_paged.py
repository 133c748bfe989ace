from __future__ import annotations

import numpy as np
import pytest

from parity.errors import GoldenError
from parity.judge.classes import paged

STORED, PRODUCTS = "every intermediate stored", "products stored"
NAN = np.nan
# Three requests: a chunk of four tokens behind three, one token behind nine, and a prompt of one.
SEGMENTS = [[0, 4, 3], [4, 1, 9], [5, 1, 0]]
SLOTS = [11, 2, 7, 0, 19, 4, 5, 16, 1, 3, 14, 9, 8, 13, 6, 17, 12, 10]
PLAIN = {"scale": 0.35, "window": None, "softcap": None}
UNREAD = [15, 18]


def normal(seed, *shape):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def softmax(s):
    e = np.exp(s - s.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attended(q, keys, values, *, scale, window, softcap, slots=SLOTS, shift=0, kept=lambda x, at: x):
    """One query and one head at a time; `kept` is what is left of an intermediate at a point."""
    y, first = np.zeros((*q.shape[:2], values.shape[-1])), 0
    for start, length, context in SEGMENTS:
        for t in range(length):
            place = context + t
            low = 0 if window is None else max(0, place - window + 1)
            held = [slots[first + j] for j in range(low, max(place + 1 - shift, low + 1))]
            for h in range(q.shape[1]):
                g = h * keys.shape[1] // q.shape[1]
                s = kept(kept(keys[held, g] @ q[start + t, h], "product") * scale, "score")
                if softcap is not None:
                    s = kept(kept(np.tanh(kept(s / softcap, "cap")), "cap") * softcap, "cap")
                y[start + t, h] = kept(softmax(s), "weights") @ values[held, g]
        first += context + length
    return y


@pytest.fixture
def operands(tensor, values):
    """q of 4 heads, pools of 2 with NaN in every slot that nobody reads; and their exact values."""

    def make(dtype):
        pools = [normal(2, 20, 2, 8), normal(3, 20, 2, 6)]
        for pool in pools:
            pool[UNREAD] = NAN
        given = [tensor(t, dtype) for t in (normal(1, 6, 4, 8), *pools)]
        places = [tensor(SLOTS, "i64"), tensor(SEGMENTS, "i64")]
        return [*given, *places], [values(t) for t in given]

    return make


SETTINGS = [
    PLAIN,
    PLAIN | {"window": 1},
    PLAIN | {"window": 3},
    PLAIN | {"softcap": 2.0},
    PLAIN | {"window": 4, "softcap": 0.5},
]


@pytest.mark.parametrize("attrs", SETTINGS)
def test_value_is_that_of_loops_over_requests(expected, operands, attrs):
    given, (q, keys, values) = operands("f32")
    (budget,) = expected("paged_attention", *given, **attrs)
    assert budget.value.numpy() == pytest.approx(attended(q, keys, values, **attrs), rel=1e-12, abs=1e-14)
    assert not budget.free.any()
    assert budget.hard.isfinite().all()


def test_blocks_of_queries_give_what_a_segment_at_once_gives(expected, operands, monkeypatch):
    given, _ = operands("f32")
    (whole,) = expected("paged_attention", *given, **PLAIN)
    monkeypatch.setattr(paged, "_BLOCK", 8)
    (parts,) = expected("paged_attention", *given, **PLAIN)
    assert parts.value.numpy() == pytest.approx(whole.value.numpy(), rel=1e-14)
    assert parts.hard.numpy() == pytest.approx(whole.hard.numpy(), rel=1e-9)


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
@pytest.mark.parametrize("attrs", [PLAIN, PLAIN | {"softcap": 2.0}])
def test_what_a_model_stores_is_a_reading_of_its_own(held, operands, tensor, values, attrs, dtype):
    given, exact = operands(dtype)

    def keeping(*points):
        kept = lambda x, at: values(tensor(x, dtype)) if at in points else x  # noqa: E731 - one line
        return tensor(attended(*exact, **attrs, kept=kept), dtype)

    assert held("paged_attention", given, keeping(), **attrs) == ""
    assert held("paged_attention", given, keeping("product", "score", "cap", "weights"), **attrs) == STORED
    assert held("paged_attention", given, keeping("product", "weights"), **attrs) == PRODUCTS


FAULTS = {
    "another scale": {"scale": 0.36},
    "a window of one less": {"window": 2},
    "a window of one more": {"window": 4},
    "no cap": {"softcap": None},
    "a cap of 1 % more": {"softcap": 2.02},
    "the newest key left out": {"shift": 1},
    "slots in order": {"slots": sorted(SLOTS)},
}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_exceeds(held, operands, tensor, fault, dtype):
    given, exact = operands(dtype)
    attrs = PLAIN | {"window": 3, "softcap": 2.0}
    assert held("paged_attention", given, tensor(attended(*exact, **attrs), dtype), **attrs) is not None
    wrong = attended(*exact, **(attrs | FAULTS[fault]))
    assert held("paged_attention", given, tensor(wrong, dtype), **attrs) is None


def test_keys_of_the_other_group_exceed(held, operands, tensor):
    given, (q, keys, values) = operands("bf16")
    wrong = attended(q, keys[:, ::-1], values[:, ::-1], **PLAIN)
    assert held("paged_attention", given, tensor(wrong, "bf16"), **PLAIN) is None


def test_a_nan_of_a_key_that_is_read_must_show_and_one_of_another_request_must_not(held, operands, tensor):
    given, (q, keys, values) = operands("f32")
    keys[SLOTS[17]] = NAN  # the only key of the last request
    given[1] = tensor(keys, "f32")
    y = attended(q, keys, values, **PLAIN)
    assert np.isnan(y[5]).all() and not np.isnan(y[:5]).any()
    assert held("paged_attention", given, tensor(y, "f32"), **PLAIN) == ""
    for row, value in ((5, 0.0), (4, NAN), (0, NAN)):
        wrong = y.copy()
        wrong[row] = value
        assert held("paged_attention", given, tensor(wrong, "f32"), **PLAIN) is None


def test_a_nan_of_a_later_token_may_be_masked_or_multiplied_by_0(held, operands, tensor):
    given, (q, keys, values) = operands("f32")
    values[SLOTS[6]] = NAN  # the newest of the first request: only its last query sees it
    given[2] = tensor(values, "f32")
    y = attended(q, keys, values, **PLAIN)
    assert np.isnan(y[3]).all()
    assert held("paged_attention", given, tensor(y, "f32"), **PLAIN) == ""
    y[0] = NAN
    assert held("paged_attention", given, tensor(y, "f32"), **PLAIN) == ""
    y[3] = 0.0
    assert held("paged_attention", given, tensor(y, "f32"), **PLAIN) is None


def test_one_key_is_that_key_and_no_token_is_nothing(expected, tensor):
    q, k, v = (tensor(normal(n, 1, 1, 4), "f32") for n in (1, 2, 3))
    (budget,) = expected("paged_attention", q, k, v, tensor([0], "i64"), tensor([[0, 1, 0]], "i64"), **PLAIN)
    assert budget.value.tolist() == [[np.array(v.array())[0, 0].tolist()]]
    none = tensor(np.zeros((0, 1, 4)), "f32")
    (budget,) = expected(
        "paged_attention", none, k, v, tensor([], "i64"), tensor([[0, 0, 0]], "i64"), **PLAIN
    )
    assert budget.shape == (0, 1, 4)


def test_a_request_without_a_new_token_owns_its_slots(held, tensor):
    q, k, v = (tensor(normal(n, 1, 1, 4), "f32") for n in (1, 2, 3))
    k, v = (tensor(normal(n, 4, 1, 4), "f32") for n in (2, 3))
    places = [tensor([0, 1, 2], "i64"), tensor([[0, 0, 2], [0, 1, 0]], "i64")]
    y = tensor(np.array(v.array())[2:3], "f32")
    assert held("paged_attention", [q, k, v, *places], y, **PLAIN) == ""


def test_a_row_of_no_request_is_not_compared(judged, operands, tensor):
    given, exact = operands("f32")
    given[4] = tensor(SEGMENTS[:2], "i64")
    given[3] = tensor(SLOTS[:17], "i64")
    y = attended(*exact, **PLAIN)
    y[5] = 7.0
    (judgement,) = judged("paged_attention", given, [tensor(y, "f32")], **PLAIN)
    assert (judgement.verdict.value, judgement.elements, judgement.free) == ("within", 120, 24)


@pytest.mark.parametrize(
    "slots, segments, text",
    [
        (SLOTS[:-1], SEGMENTS, r"segments \[\[0, 4, 3\], .* do not fit 6 rows and 17 slots"),
        (SLOTS, [[0, 4, 3], [3, 1, 9], [5, 1, 0]], "do not fit 6 rows"),
        (SLOTS, [[0, 4, 3], [4, 1, 9], [6, 1, 0]], "do not fit 6 rows"),
        ([*SLOTS[:-1], 20], SEGMENTS, "slots 0 to 20 of a pool of 20"),
        ([*SLOTS[:-1], -1], SEGMENTS, "slots -1 to 19 of a pool of 20"),
    ],
)
def test_places_that_do_not_fit_are_refused_with_their_numbers(
    expected, operands, tensor, slots, segments, text
):
    given, _ = operands("f32")
    with pytest.raises(GoldenError, match=text):
        expected("paged_attention", *given[:3], tensor(slots, "i64"), tensor(segments, "i64"), **PLAIN)


@pytest.fixture
def latents(tensor, values):
    """q of 3 heads, latents of 8 with 4 shared dimensions, w; and their exact values."""

    def make(dtype):
        pool = normal(5, 20, 12)
        pool[UNREAD] = NAN
        given = [tensor(t, dtype) for t in (normal(4, 6, 3, 10), pool, normal(6, 33, 8) / 3)]
        places = [tensor(SLOTS, "i64"), tensor(SEGMENTS, "i64")]
        return [*given, *places], [values(t) for t in given]

    return make


def of_latents(q, pool, w, *, kept=lambda x: x, scale=0.3):
    made = kept(pool[:, :8] @ w.T).reshape(20, 3, 11)
    shared = np.repeat(pool[:, None, 8:], 3, 1)
    attrs = {"scale": scale, "window": None, "softcap": None}
    keep = {"kept": lambda x, _: kept(x)}
    return attended(q, np.concatenate((made[..., :6], shared), -1), made[..., 6:], **attrs, **keep)


def absorbed(q, pool, w, *, kept=lambda x: x):
    of_heads = w.reshape(3, 11, 8)
    turned = kept(np.einsum("thn,hnl->thl", q[..., :6], of_heads[:, :6]))
    both, keys = np.concatenate((turned, q[..., 6:]), -1), pool[:, None]
    attrs = {"scale": 0.3, "window": None, "softcap": None}
    z = kept(attended(both, keys, keys[..., :8], **attrs, kept=lambda x, _: kept(x)))
    return np.einsum("thl,hel->the", z, of_heads[:, 6:])


LATENT = {"nope": 6, "scale": 0.3, "absorbed": False}


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
def test_latents_are_held_in_the_order_that_the_step_names(held, latents, tensor, values, dtype):
    given, exact = latents(dtype)
    for order, attrs in ((of_latents, LATENT), (absorbed, LATENT | {"absorbed": True})):
        assert held("latent_attention", given, tensor(order(*exact), dtype), **attrs) == ""
        if dtype != "f32":
            chain = order(*exact, kept=lambda x: values(tensor(x, dtype)))
            assert held("latent_attention", given, tensor(chain, dtype), **attrs) == STORED


@pytest.mark.parametrize("dtype", ["f32", "bf16", "f16"])
@pytest.mark.parametrize("absorb", [False, True])
def test_latents_with_a_planted_fault_exceed(held, latents, tensor, absorb, dtype):
    given, (q, pool, w) = latents(dtype)
    attrs = LATENT | {"absorbed": absorb}
    unshared, by_column = pool.copy(), w.reshape(11, 3, 8).swapaxes(0, 1).reshape(33, 8)
    unshared[:, 8:] = 0
    wrong = (of_latents(q, unshared, w), of_latents(q, pool, by_column), of_latents(q, pool, w, scale=0.31))
    for y in wrong:
        assert held("latent_attention", given, tensor(y, dtype), **attrs) is None
