"""Random schedules of random requests: play one, say what is wrong with it, shrink it.

The law: what a request says is a function of its own prompt and parameters, whatever else runs, in
whatever pieces, pages and order. A `Schedule` prints as the Python that makes it, so a violation is
its own reproduction: `violation(folder, Schedule(...))`.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from engine.noise import limit

from parity.engine import Engine, Finish, Limits, SamplingParams

VOCAB = 37  # of the smallest family
MOST_STEPS = 2000  # the longest of the first 500 honest schedules takes 89


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request; `arrives` and `aborted` count steps."""

    prompt: tuple[int, ...]
    tokens: int = 1
    temperature: float = 0.0
    seed: int = 0
    priority: int = 0
    domain: str = ""
    arrives: int = 0
    aborted: int | None = None

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(
            max_tokens=self.tokens,
            temperature=self.temperature,
            seed=self.seed,
            ignore_eos=True,
            logprobs=0,
        )


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """`preempted` are (step, ask); `shuffle` permutes the free pages."""

    asks: tuple[Ask, ...]
    pages: int
    page_size: int = 4
    limits: Limits = field(default_factory=Limits)
    preempted: tuple[tuple[int, int], ...] = ()
    shuffle: int = 0


@dataclass(frozen=True)
class Said:
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    aborted: bool = False


def play(folder, schedule: Schedule) -> list[Said]:
    """What came of each request. Raises AssertionError for a broken promise of the engine itself."""
    engine = Engine(
        folder,
        dtype="f64",
        kv_tokens=schedule.pages * schedule.page_size,
        page_size=schedule.page_size,
        limits=schedule.limits,
        check=True,
    )
    random.Random(schedule.shuffle).shuffle(engine.scheduler.blocks._free)
    engine.scheduler.plan = _watched(engine.scheduler)
    requests = {}
    step = 0
    while len(requests) < len(schedule.asks) or engine.busy:
        for number, ask in enumerate(schedule.asks):
            if ask.arrives <= step and number not in requests:
                requests[number] = engine.add(
                    ask.prompt, ask.params, priority=ask.priority, domain=ask.domain
                )
            if ask.aborted is not None and step == max(ask.aborted, ask.arrives):
                engine.abort(requests[number])
        for when, number in schedule.preempted:
            if when == step and number in requests and requests[number] in engine.scheduler.running:
                engine.scheduler._preempt(requests[number])
        engine.step()
        step += 1
        assert step < MOST_STEPS, "requests do not end"
    engine.scheduler.blocks.check([])
    return [
        Said(
            tuple(r.output),
            tuple(s.logprob for s in r.scores),
            aborted=r.finish is Finish.ABORT,
        )
        for r in (requests[n] for n in range(len(schedule.asks)))
    ]


def _watched(scheduler):
    """Its plan, with a proof that nobody computes while one of higher priority waits."""
    plan = scheduler.plan

    def watched():
        planned = plan()
        computing = [p.request.priority for p in planned]
        waiting = [r.priority for r in scheduler.waiting]
        if computing and waiting and not scheduler.limits.static:
            assert max(computing) <= min(waiting), "a priority is inverted"
        return planned

    return watched


@functools.cache
def _alone_engine(folder) -> Engine:
    return Engine(folder, dtype="f64", kv_tokens=64, page_size=64, limits=Limits(prefix_cache=False))


@functools.cache
def alone(folder, ask: Ask) -> Said:
    """What a request says by itself, its prompt in one piece and nothing cached."""
    (output,) = _alone_engine(folder).generate([ask.prompt], ask.params)
    return Said(output.tokens, tuple(s.logprob for s in output.scores))


@functools.cache
def allowed(folder) -> float:
    """The derived noise of a log-probability in float64, over as long a text as is drawn."""
    draw = random.Random(0)
    return 2 * limit(folder, [draw.randrange(VOCAB) for _ in range(40)], 2.0**-53)


def violation(folder, schedule: Schedule) -> str | None:
    """What is wrong with a schedule, or None."""
    try:
        said = play(folder, schedule)
    except Exception as error:  # noqa: BLE001 - whatever a fault makes happen is a violation
        return f"{type(error).__name__}: {error}"
    for number, (ask, got) in enumerate(zip(schedule.asks, said, strict=True)):
        want = alone(folder, replace(ask, priority=0, domain="", arrives=0, aborted=None))
        count = len(got.tokens)
        if got.tokens != want.tokens[:count] or (count < len(want.tokens) and not got.aborted):
            return f"request {number} said {got.tokens}, alone {want.tokens}"
        for here, there in zip(got.logprobs, want.logprobs, strict=False):
            if not abs(here - there) <= allowed(folder):  # a NaN is no agreement
                return f"request {number} scored {here}, alone {there}"
    return None


def draw(seed: int) -> Schedule:
    """A schedule of up to six requests that share beginnings, in a cache that is often too small."""
    rng = random.Random(seed)
    base = [rng.randrange(VOCAB) for _ in range(16)]
    asks = []
    for _ in range(rng.randint(1, 6)):
        own = [rng.randrange(VOCAB) for _ in range(rng.choice((0, 0, 1, 3, 6)))]
        prompt = base[: rng.choice((4, 8, 12, 16, rng.randint(1, 16)))] + own
        ask = Ask(
            prompt=tuple(prompt),
            tokens=rng.randint(0, 8),
            temperature=rng.choice((0.0, 1.0)),
            seed=rng.randrange(3),
            priority=rng.choice((0, 0, 1, 2)),
            domain=rng.choice(("", "", "b")),
            arrives=rng.choice((0, rng.randint(0, 12))),
            aborted=rng.randint(0, 15) if rng.random() < 0.15 else None,
        )
        asks.append(ask)
    page = rng.choice((1, 2, 3, 4, 8))
    least = -(-max(len(a.prompt) + max(a.tokens, 1) - 1 for a in asks) // page)
    limits = Limits(
        budget=rng.choice((1, 2, 3, 5, 8, 64)),
        chunk=rng.choice((1, 2, 3, 5, 64)),
        requests=rng.choice((1, 2, 3, 64)),
        static=rng.random() < 0.1,
        prefix_cache=rng.random() < 0.8,
    )
    events = ((rng.randint(1, 20), rng.randrange(len(asks))) for _ in range(rng.choice((0, 0, 1, 3))))
    return Schedule(
        asks=tuple(asks),
        pages=least + rng.choice((0, 0, 1, 3, 12)),
        page_size=page,
        limits=limits,
        preempted=tuple(events),
        shuffle=rng.randrange(100),
    )


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool]) -> Schedule:
    """The simplest schedule found that still fails: fewest requests, shortest prompts, fewest events."""
    while True:
        simpler = next((s for s in _simpler(schedule) if _possible(s) and fails(s)), None)
        if simpler is None:
            return schedule
        schedule = simpler


def _possible(schedule: Schedule) -> bool:
    room = schedule.pages * schedule.page_size
    return all(a.prompt and len(a.prompt) + max(a.tokens, 1) - 1 <= room for a in schedule.asks)


def _simpler(schedule: Schedule) -> Iterator[Schedule]:
    for gone in range(len(schedule.asks) if len(schedule.asks) > 1 else 0):
        asks = tuple(a for n, a in enumerate(schedule.asks) if n != gone)
        events = tuple((s, n - (n > gone)) for s, n in schedule.preempted if n != gone)
        yield replace(schedule, asks=asks, preempted=events)
    for event in schedule.preempted:
        yield replace(schedule, preempted=tuple(e for e in schedule.preempted if e != event))
    plain = Limits(prefix_cache=False)
    for name in ("budget", "chunk", "requests", "static", "prefix_cache"):
        if getattr(schedule.limits, name) != getattr(plain, name):
            yield replace(schedule, limits=replace(schedule.limits, **{name: getattr(plain, name)}))
    for pages in (schedule.pages // 2, schedule.pages - 1):
        yield replace(schedule, pages=pages)
    for size in (8, 4, 1):  # beginnings that are shared stay shared
        yield replace(schedule, asks=tuple(replace(a, prompt=a.prompt[size:]) for a in schedule.asks))
    if schedule.shuffle:
        yield replace(schedule, shuffle=0)
    for number, ask in enumerate(schedule.asks):
        for simpler in _simpler_asks(ask):
            asks = (*schedule.asks[:number], simpler, *schedule.asks[number + 1 :])
            yield replace(schedule, asks=asks)
            yield replace(schedule, asks=asks, pages=schedule.pages - 1)  # as short of room as before


def _simpler_asks(ask: Ask) -> Iterator[Ask]:
    for size in (len(ask.prompt) // 2, len(ask.prompt) - 1):
        yield replace(ask, prompt=ask.prompt[:size])
    for tokens in (ask.tokens // 2, ask.tokens - 1):
        if 0 <= tokens < ask.tokens:
            yield replace(ask, tokens=tokens)
    plain = Ask(prompt=ask.prompt)
    for name in ("temperature", "seed", "priority", "domain", "aborted", "arrives"):
        if getattr(ask, name) != getattr(plain, name):
            yield replace(ask, **{name: getattr(plain, name)})
