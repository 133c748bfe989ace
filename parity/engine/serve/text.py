"""Text to tokens and back: the checkpoint's tokenizer, its chat template, and text while it grows.

A streamed piece holds complete characters only, and all pieces together are the text of all tokens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from parity.errors import UsageError

__all__ = ["Growing", "Text"]

_INCOMPLETE = "\ufffd"


class Text:
    """The tokenizer of a checkpoint folder. Raises UsageError for one that is absent or does not fit."""

    def __init__(self, folder: Path, *, vocab: int) -> None:
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UsageError(f"{file}: is not there. Text needs it; tokens can be given as numbers without")
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:
            raise UsageError(f"{file}: cannot be read: {error}. Download it again") from error
        # As saved after training some cut every text at its longest sample.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        most = max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
        if most >= vocab:
            raise UsageError(
                f"{file}: has token {most:,}, but config.json has vocab_size {vocab:,}: another model's"
            )
        self._config = _json(folder / "tokenizer_config.json")
        self._template = _template(folder, self._config)
        self._folder = folder

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a prompt, with the special tokens that the tokenizer adds."""
        return list(self._tokenizer.encode(text).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones left out."""
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))

    def chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Return the tokens of a conversation as the model was trained to see it, ready to answer."""
        if self._template is None:
            raise UsageError(f"{self._folder}: has no chat template; give a prompt instead")
        special = {
            name: value["content"] if isinstance(value, Mapping) else value
            for name, value in self._config.items()
            if name.endswith("_token") and value is not None
        }
        try:
            text = self._template.render(messages=list(messages), add_generation_prompt=True, **special)
        except (TemplateError, TypeError) as error:
            raise UsageError(
                f"{self._folder}: the chat template refuses this conversation: {error}"
            ) from None
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


class Growing:
    """The text of an output while its tokens arrive, up to the first of the `stops`.

    What may be the beginning of a stop is held back until it is not.
    """

    def __init__(self, text: Text, stops: Sequence[str] = ()) -> None:
        self._text = text
        self._stops = stops
        self._tokens: list[int] = []
        self._start = 0  # tokens from here on decide the next characters
        self._done = 0
        self._known = ""  # all complete characters so far
        self._said = 0  # of which so many were returned
        self.stopped = False

    def push(self, token: int) -> str:
        """Return the characters that this token lets be said."""
        self._tokens.append(token)
        # Decoded behind tokens that are done already: some tokenizers drop a leading space.
        before = self._text.decode(self._tokens[self._start : self._done])
        now = self._text.decode(self._tokens[self._start :])
        if not now.endswith(_INCOMPLETE) and len(now) > len(before):
            self._start, self._done = self._done, len(self._tokens)
            self._known += now[len(before) :]
        return self._say(hold=True)

    def finish(self) -> str:
        """Return what is left, characters that stayed incomplete included."""
        if not self.stopped:
            self._known = self._text.decode(self._tokens)
        return self._say(hold=False)

    def _say(self, *, hold: bool) -> str:
        found = [self._known.find(stop, max(0, self._said - len(stop) + 1)) for stop in self._stops]
        places = [place for place in found if place >= 0]
        if places:
            self._known, self.stopped = self._known[: min(places)], True
        end = len(self._known)
        if hold and not self.stopped:
            end -= max((_overlap(self._known, stop) for stop in self._stops), default=0)
        piece = self._known[self._said : end]
        self._said = max(self._said, end)
        return piece


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of text begin the stop."""
    most = min(len(text), len(stop) - 1)
    return next((n for n in range(most, 0, -1) if text.endswith(stop[:n])), 0)


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise UsageError(f"{file}: is not JSON: {error}. Download it again") from None
    if not isinstance(found, dict):
        raise UsageError(f"{file}: must be an object, got {type(found).__name__}")
    return found


def _template(folder: Path, config: Mapping[str, Any]) -> Any:
    file = folder / "chat_template.jinja"
    source = file.read_text() if file.is_file() else config.get("chat_template")
    if isinstance(source, list):  # several, by name
        source = next((t.get("template") for t in source if t.get("name") == "default"), None)
    if not source:
        return None
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment.globals["raise_exception"] = refuse
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    try:
        return environment.from_string(source)
    except TemplateError as error:
        raise UsageError(f"{folder}: the chat template cannot be read: {error}. Download it again") from None
