"""The engine: a checkpoint on a device, requests in, tokens out. One step is the whole of its motion."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import parity.engine.ops.cpu
import parity.engine.ops.reference  # noqa: F401  # declares the ops
from parity.engine.kv.blocks import Blocks
from parity.engine.kv.pool import Pool
from parity.engine.memory import estimate, require
from parity.engine.model.arch import read
from parity.engine.model.net import build
from parity.engine.model.weights import Checkpoint, digest_of, load
from parity.engine.ops.op import Binder, Wrap
from parity.engine.run.batch import flatten
from parity.engine.run.sample import choose, scored
from parity.engine.sched.request import Finish, Request, SamplingParams, TokenScore
from parity.engine.sched.scheduler import Limits, Planned, Scheduler
from parity.engine.serve.text import Growing, Text
from parity.errors import UsageError, near_miss

__all__ = ["Engine", "Output", "Piece"]

_Prompt = str | Sequence[int]
_SHORT = {"f64": "float64", "f32": "float32", "bf16": "bfloat16", "f16": "float16"}
_DTYPES: dict[str, torch.dtype] = {
    name: getattr(torch, long) for short, long in _SHORT.items() for name in (short, long)
}


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
    `page_size`. `force` and `wrap` are those of `Binder`. With `check` every step proves that no page
    was lost. Raises UsageError, before anything is loaded, for a folder that cannot be served or
    that does not fit.
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
    ) -> None:
        self.folder = Path(path)
        self.device = torch.device(device)
        config = _config(self.folder)
        self.arch = read(config, where=str(self.folder / "config.json"))
        self.dtype = _dtype(dtype if dtype is not None else _own_dtype(config))
        asked = limits or Limits()
        pages = -(-kv_tokens // page_size)
        needed = estimate(self.arch, dtype=self.dtype, slots=pages * page_size, budget=asked.budget)
        require(needed, device=self.device)
        self.text = (
            Text(self.folder, vocab=self.arch.vocab) if (self.folder / "tokenizer.json").is_file() else None
        )
        self._weights = load(Checkpoint(self.folder), self.arch, dtype=self.dtype, device=self.device)
        self._pool = Pool(self.arch, pages * page_size, dtype=self.dtype, device=self.device)
        bounded = Limits(
            budget=asked.budget,
            requests=asked.requests,
            chunk=asked.chunk,
            positions=min(asked.positions, self.arch.max_positions),
            static=asked.static,
            prefix_cache=asked.prefix_cache,
        )
        self.scheduler = Scheduler(Blocks(pages, page_size), bounded)
        self._check = check
        self._ends = _ends(self.folder, config)
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
        return digest_of(self._weights)

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
        return self._queue(request)

    def abort(self, request: Request) -> None:
        """End a request now; others do not notice."""
        self._end(request, Finish.ABORT)

    def step(self) -> dict[int, Piece]:
        """Compute one step, and return what it added to each request by its id."""
        planned = self.scheduler.plan()
        if not planned:
            return {}
        with torch.no_grad():
            logits = self._network(flatten([p.run for p in planned], device=self.device))
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
        requests = [self._subscribed(prompt, params) for prompt in prompts]
        while any(request.finish is None for request in requests):
            self.step()
        return [self._output(request, self._inboxes.pop(request.id)) for request in requests]

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
        del self._inboxes[request.id]
        if request.finish is None:
            self.abort(request)

    def score(self, tokens: _Prompt) -> torch.Tensor:
        """Return the scores of the next token after each position, [T, vocab], teacher-forced."""
        request = Request(
            id=self._number,
            prompt=self._tokens(tokens),
            params=SamplingParams(max_tokens=1),
            score_all=True,
        )
        self._queue(request)
        while request.finish is None:
            self.step()
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
        tokens = list(prompt)
        for token in tokens:
            if not 0 <= token < self.arch.vocab:
                raise UsageError(f"token {token!r} is not in the vocabulary of {self.arch.vocab:,}")
        return tokens


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder. Name one that holds config.json and safetensors files")
    if not file.is_file():
        raise UsageError(f"{file}: is not there. Download the checkpoint again, all of its files")
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise UsageError(f"{file}: is not JSON: {error}. Download it again") from None
    if not isinstance(found, dict):
        raise UsageError(f"{file}: must be an object, got {type(found).__name__}")
    return found


def _own_dtype(config: dict[str, Any]) -> str:
    places = (config, config.get("text_config") or {})
    found = (place.get(key) for place in places for key in ("dtype", "torch_dtype"))
    named = next((name for name in found if name), None)
    return str(named or "float32").removeprefix("torch.")


def _dtype(name: str | torch.dtype) -> torch.dtype:
    if isinstance(name, torch.dtype):
        return name
    found = _DTYPES.get(name)
    if found is None:
        raise UsageError(
            f"dtype '{name}' is not known{near_miss(name, _DTYPES)}; known: {', '.join(_DTYPES)}"
        )
    return found


def _ends(folder: Path, config: dict[str, Any]) -> frozenset[int]:
    file = folder / "generation_config.json"
    found: Any = None
    if file.is_file():
        try:
            found = json.loads(file.read_text()).get("eos_token_id")
        except (ValueError, AttributeError) as error:
            raise UsageError(f"{file}: is not a JSON object: {error}. Download it again") from None
    if found is None:
        found = config.get("eos_token_id")
    tokens = found if isinstance(found, list) else [] if found is None else [found]
    return frozenset(int(token) for token in tokens)
