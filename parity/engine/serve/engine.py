"""The engine: a checkpoint on a device, requests in, tokens out. One step is the whole of its motion.

A little longer than a file should be: from a request to its last token is one reading.
"""

from __future__ import annotations

import asyncio
import operator
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import parity.engine.ops.cpu
import parity.engine.ops.npu
import parity.engine.ops.reference  # noqa: F401  # declares the ops
from parity.engine.kv.blocks import Blocks
from parity.engine.kv.canary import Canary
from parity.engine.kv.pool import Pool
from parity.engine.memory import estimate, require
from parity.engine.model.config import read
from parity.engine.model.folder import block_size, config_of, dtype_named, end_tokens, own_dtype
from parity.engine.model.net import build
from parity.engine.model.weights import Checkpoint, digest_of, load
from parity.engine.ops.op import Binder, Wrap
from parity.engine.run.batch import flatten
from parity.engine.run.sample import choose, scored
from parity.engine.sched.request import Finish, Request, SamplingParams, TokenScore
from parity.engine.sched.scheduler import Limits, Planned, Scheduler
from parity.engine.serve.text import Growing, Text
from parity.errors import UsageError

__all__ = ["Engine", "Output", "Piece"]

_Prompt = str | Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What came of a request; `text` is empty where the engine has no tokenizer."""

    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    text: str
    finish: Finish
    scores: tuple[TokenScore, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one step added to a request: text of complete characters, and its tokens."""

    text: str
    tokens: tuple[int, ...]
    finish: Finish | None


class Engine:
    """A checkpoint folder in Hugging Face format, loaded and ready.

    `dtype` None is the checkpoint's own. `kv_tokens` is the room for keys and values, in pages of
    `page_size`. `force` and `wrap` are those of `Binder`. fp8 weights are dequantised when loaded, or
    with `keep_quantised` for each product, to the same values. With `check` every step proves that no page
    was lost, with `canary` that each slot it reads holds what that position wrote. Raises UsageError,
    before anything is loaded, for a folder that cannot be served or that does not fit.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype | None = None,
        kv_tokens: int = 8192,
        page_size: int = 16,
        limits: Limits | None = None,
        force: Iterable[str] = (),
        wrap: Wrap | None = None,
        check: bool = False,
        canary: bool = False,
        keep_quantised: bool = False,
    ) -> None:
        self.folder = Path(path)
        self.device = torch.device(device)
        config = config_of(self.folder)
        self.arch = read(config, where=str(self.folder / "config.json"))
        self.dtype = dtype_named(dtype if dtype is not None else own_dtype(config))
        if kv_tokens < 1 or page_size < 1:
            raise UsageError(f"kv_tokens and page_size must be 1 or more, got {kv_tokens} and {page_size}")
        asked = limits or Limits()
        pages = -(-kv_tokens // page_size)
        files = Checkpoint(self.folder, block=block_size(config))
        needed = replace(
            estimate(self.arch, dtype=self.dtype, slots=pages * page_size, budget=asked.budget),
            weights=files.nbytes(self.arch, self.dtype, keep=keep_quantised),
        )
        require(needed, device=self.device)
        self.text = (
            Text(self.folder, vocab=self.arch.vocab) if (self.folder / "tokenizer.json").is_file() else None
        )
        self._weights = load(files, self.arch, dtype=self.dtype, device=self.device, keep=keep_quantised)
        self._pool = Pool(self.arch, pages * page_size, dtype=self.dtype, device=self.device)
        self._canary = Canary(pages * page_size, page_size, device=self.device) if canary else None
        bounded = replace(asked, positions=min(asked.positions, self.arch.max_positions))
        self.scheduler = Scheduler(Blocks(pages, page_size), bounded)
        self._check = check
        self._ends = end_tokens(self.folder, config)
        self._number = 0
        self._growing: dict[int, Growing] = {}
        self._inboxes: dict[int, deque[Piece]] = {}
        self.rebind(force=force, wrap=wrap)

    def rebind(self, *, force: Iterable[str] = (), wrap: Wrap | None = None) -> None:
        """Build the network's closures anew, over the same weights and cache: milliseconds."""
        binder = Binder(self.device.type, force=force, wrap=wrap)
        self._network = build(self.arch, self._weights, self._pool, binder)
        self.sites = tuple(binder.sites)

    def weights_digest(self) -> str:
        """Return `sha256:…` of the weights as they are computed with, dequantised ones included."""
        return digest_of(self._weights, self.dtype)

    def add(
        self,
        prompt: _Prompt,
        params: SamplingParams | None = None,
        *,
        priority: int = 0,
        domain: str = "",
    ) -> Request:
        """Queue a request. Raises UsageError for one that can never be served."""
        request = Request(
            id=self._number,
            prompt=self._tokens(prompt),
            params=params or SamplingParams(),
            priority=priority,
            domain=domain,
        )
        if request.params.stop and self.text is None:
            raise UsageError(f"stop texts need a tokenizer, and {self.folder} has no tokenizer.json")
        self._known(request.params.logit_bias)
        return self._queue(request)

    def abort(self, request: Request) -> None:
        """End a request now; others do not notice. One that has ended already stays as it is."""
        if request.finish is not None:
            return
        growing = self._growing.get(request.id)
        text = growing.finish() if growing else ""
        self._end(request, Finish.ABORT)
        if request.id in self._inboxes:
            self._inboxes[request.id].append(Piece(text=text, tokens=(), finish=Finish.ABORT))

    def step(self) -> dict[int, Piece]:
        """Compute one step, and return what it added to each request by its id."""
        planned = self.scheduler.plan()
        if not planned:
            return {}
        batch = flatten([part.run for part in planned], device=self.device)
        if self._canary is not None:
            self._canary.step(batch, planned)
        with torch.no_grad():
            logits = self._network(batch)
        pieces: dict[int, Piece] = {}
        row = 0
        for part in planned:
            self.scheduler.done(part)
            piece = self._advance(part, logits[row : row + part.run.logits])
            row += part.run.logits
            if piece is not None:
                pieces[part.request.id] = piece
                if part.request.id in self._inboxes:
                    self._inboxes[part.request.id].append(piece)
        if self._check:
            self.scheduler.check()
        return pieces

    @property
    def busy(self) -> bool:
        """Whether any request waits or runs."""
        return bool(self.scheduler.waiting or self.scheduler.running)

    def generate(self, prompts: Sequence[_Prompt], params: SamplingParams | None = None) -> list[Output]:
        """Serve prompts together and return their outputs in order."""
        requests: list[Request] = []
        try:
            for prompt in prompts:
                requests.append(self._subscribed(prompt, params))  # noqa: PERF401 - the next may be refused
            while any(request.finish is None for request in requests):
                self.step()
            return [self._output(request, self._inboxes[request.id]) for request in requests]
        finally:  # a prompt that is refused, or an interrupt, leaves nothing behind
            for request in requests:
                self._leave(request)

    def stream(self, prompt: _Prompt, params: SamplingParams | None = None) -> Generator[Piece, None, None]:
        """Yield an output as it grows; closing the iterator aborts the request.

        Other requests advance with it, and streams may be read in turn.
        """
        request = self._subscribed(prompt, params)
        try:
            while True:
                inbox = self._inboxes[request.id]
                while inbox:
                    yield inbox.popleft()
                if request.finish is not None:
                    return
                self.step()
        finally:
            self._leave(request)

    async def astream(self, prompt: _Prompt, params: SamplingParams | None = None) -> AsyncIterator[Piece]:
        """Yield an output as it grows, letting other tasks run between steps, theirs included."""
        pieces = self.stream(prompt, params)
        try:
            for piece in pieces:
                yield piece
                await asyncio.sleep(0)
        finally:
            pieces.close()

    def _subscribed(self, prompt: _Prompt, params: SamplingParams | None) -> Request:
        request = self.add(prompt, params)
        self._inboxes[request.id] = deque()
        return request

    def _leave(self, request: Request) -> None:
        self.abort(request)
        del self._inboxes[request.id]

    def score(self, tokens: _Prompt) -> torch.Tensor:
        """Return the scores of the next token after each position, [T, vocab], teacher-forced."""
        request = Request(
            id=self._number,
            prompt=self._tokens(tokens),
            params=SamplingParams(max_tokens=1),
            score_all=True,
        )
        self._queue(request)
        try:
            while request.finish is None:
                self.step()
        finally:
            self.abort(request)
        return torch.cat(request.logits)

    def _queue(self, request: Request) -> Request:
        self.scheduler.add(request)
        self._number += 1
        if self.text is not None:
            self._growing[request.id] = Growing(self.text, request.params.stop)
        return request

    def _advance(self, part: Planned, rows: torch.Tensor) -> Piece | None:
        request = part.request
        if request.score_all:
            request.logits.append(rows)
            if request.computed == request.length:
                self._end(request, Finish.LENGTH)
            return None
        if not part.run.logits:
            return None
        if request.params.max_tokens == 0:
            return Piece(text="", tokens=(), finish=self._end(request, Finish.LENGTH))
        token = choose(rows[-1], request.params, request.prompt, request.output)
        if request.params.logprobs is not None:
            request.scores.append(scored(rows[-1], token, request.params.logprobs))
        request.output.append(token)
        return self._said(request, token)

    def _said(self, request: Request, token: int) -> Piece:
        params, growing = request.params, self._growing.get(request.id)
        text = growing.push(token) if growing else ""
        ends = token in params.stop_tokens or (token in self._ends and not params.ignore_eos)
        if ends or (growing and growing.stopped):
            why: Finish | None = Finish.STOP
        else:
            why = Finish.LENGTH if len(request.output) >= params.max_tokens else None
        if why is not None:
            text += growing.finish() if growing else ""
            self._end(request, why)
        return Piece(text=text, tokens=(token,), finish=why)

    def _end(self, request: Request, why: Finish) -> Finish:
        self.scheduler.end(request, why)
        self._growing.pop(request.id, None)
        return why

    def _output(self, request: Request, pieces: Iterable[Piece]) -> Output:
        assert request.finish is not None
        return Output(
            prompt=tuple(request.prompt),
            tokens=tuple(request.output),
            text="".join(piece.text for piece in pieces),
            finish=request.finish,
            scores=tuple(request.scores),
        )

    def _tokens(self, prompt: _Prompt) -> list[int]:
        if isinstance(prompt, str):
            if self.text is None:
                raise UsageError(f"{self.folder}: has no tokenizer.json, so a prompt must be token numbers")
            return self.text.encode(prompt)
        return self._known(prompt)

    def _known(self, tokens: Iterable[int]) -> list[int]:
        found: list[int] = []
        for token in tokens:
            try:
                number = operator.index(token)
            except TypeError:  # text, or a fraction
                number = -1
            if not 0 <= number < self.arch.vocab:
                raise UsageError(f"token {token!r} is not in the vocabulary of {self.arch.vocab:,}")
            found.append(number)
        return found
