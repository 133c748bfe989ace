"""Text to tokens and back: what grows is what the whole would be, up to the first stop."""

from __future__ import annotations

import json
import random
import shutil

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from parity.engine.serve.text import Growing, Text
from parity.errors import UsageError

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
SPECIAL = {"<s>": 256, "</s>": 257}


def tokenizer_of(pieces=()):
    """A byte-level tokenizer: one token a byte, so characters come in parts; two special ones."""
    vocab = {letter: number for number, letter in enumerate(ALPHABET)}
    made = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL))
    return made


def folder_of(path, tokenizer=None, **config):
    (tokenizer or tokenizer_of()).save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.fixture
def text(tmp_path):
    return Text(folder_of(tmp_path), vocab=300)


def grown(text, tokens, stops=()):
    """Pieces as they come, and the token at which it stopped."""
    growing = Growing(text, stops)
    pieces = []
    for number, token in enumerate(tokens):
        pieces.append(growing.push(token))
        if growing.stopped:
            return pieces, number
    return [*pieces, growing.finish()], None


def test_a_character_is_said_when_its_last_byte_is_there(text):
    pieces, _ = grown(text, text.encode("aé€😀b"))
    assert pieces == ["a", "", "é", "", "", "€", "", "", "", "😀", "b", ""]


def test_bytes_that_stay_incomplete_are_said_at_the_end(text):
    tokens = text.encode("a€")[:-1]
    pieces, _ = grown(text, tokens)
    assert "".join(pieces) == text.decode(tokens) == "a\ufffd"
    assert pieces[:-1] == ["a", "", ""]


def test_bytes_that_begin_no_character_do_not_hold_up_what_follows(text):
    broken = [text.encode("€")[1], *text.encode("abc")]
    pieces, _ = grown(text, broken)
    assert "".join(pieces) == text.decode(broken) == "\ufffdabc"


def test_special_tokens_are_not_text_and_do_not_break_a_character(text):
    e = text.encode("é")
    pieces, _ = grown(text, [256, e[0], e[1], 257, *text.encode("x")])
    assert "".join(pieces) == "éx"


@pytest.mark.parametrize("seed", range(10))
def test_pieces_together_are_the_text_of_all_tokens(text, seed):
    draw = random.Random(seed)
    said = "".join(draw.choice("ab é€😀\n語") for _ in range(60))
    tokens = text.encode(said)
    for _ in range(seed % 3):
        tokens.insert(draw.randrange(len(tokens)), draw.randrange(258))
    pieces, _ = grown(text, tokens)
    assert "".join(pieces) == text.decode(tokens)
    assert seed % 3 or "\ufffd" not in "".join(pieces)


def test_pieces_of_a_trained_tokenizer_are_the_text_of_all_tokens(trained):
    text = Text(trained, vocab=1024)
    draw = random.Random(0)
    for _ in range(30):
        tokens = [draw.randrange(3, 1024) for _ in range(40)]
        pieces, _ = grown(text, tokens)
        assert "".join(pieces) == text.decode(tokens)


def test_a_leading_space_that_a_tokenizer_drops_is_dropped_once(tmp_path):
    made = Tokenizer(models.WordLevel({"▁to": 0, "▁be": 1, "or": 2, "?": 3}, unk_token="?"))
    made.decoder = decoders.Metaspace()
    text = Text(folder_of(tmp_path, made), vocab=4)
    assert grown(text, [0, 1, 2, 1])[0] == ["to", " be", "or", " be", ""]


def test_a_stop_across_pieces_ends_the_text_and_is_not_part_of_it(text):
    pieces, at = grown(text, text.encode("one END two"), stops=("END",))
    assert "".join(pieces) == "one "
    assert at == len("one END") - 1


def test_what_may_begin_a_stop_is_held_back_until_it_is_not(text):
    pieces, at = grown(text, text.encode("aENEND"), stops=("END!",))
    assert pieces == ["a", "", "", "EN", "", "", "END"]
    assert at is None


def test_the_first_of_several_stops_ends_the_text(text):
    assert "".join(grown(text, text.encode("abcdef"), stops=("ef", "cd", "de"))[0]) == "ab"


def test_a_stop_that_repeats_its_beginning_is_found(text):
    assert "".join(grown(text, text.encode("aaab"), stops=("aab",))[0]) == "a"


def test_a_stop_of_bytes_that_come_in_parts_is_found(text):
    pieces, _ = grown(text, text.encode("x€y"), stops=("€",))
    assert "".join(pieces) == "x"


@pytest.mark.parametrize("seed", range(10))
def test_a_stream_stops_where_the_whole_text_would(text, seed):
    draw = random.Random(seed)
    said = "".join(draw.choice("abé") for _ in range(50))
    stops = tuple("".join(draw.choice("abé") for _ in range(draw.randint(2, 5))) for _ in range(2))
    pieces, at = grown(text, text.encode(said), stops)
    ends = [(said.find(s) + len(s), said.find(s)) for s in stops if s in said]
    assert "".join(pieces) == (said[: min(ends)[1]] if ends else said)
    assert (at is None) == (not ends)


def test_a_prompt_is_never_cut_by_what_a_tokenizer_was_saved_with(tmp_path):
    made = tokenizer_of()
    made.enable_truncation(4)
    made.enable_padding(length=8)
    text = Text(folder_of(tmp_path, made), vocab=300)
    assert text.decode(text.encode("longer than four")) == "longer than four"
    assert len(text.encode("a")) == 1


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}"
    "{% endif %}[{{ m.role }}]{{ m.content | trim }}{% if loop.index == 9 %}{% break %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)
HELLO = [{"role": "user", "content": " hi "}]


def test_a_conversation_becomes_the_tokens_that_the_template_says(tmp_path):
    made = tokenizer_of()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", SPECIAL["<s>"])]
    )
    text = Text(folder_of(tmp_path, made, bos_token="<s>", chat_template=TEMPLATE), vocab=300)
    # The start token once: the template has it, so the tokenizer must not add its own.
    assert text.chat(HELLO) == [256, *tokenizer_of().encode("[user]hi[assistant]").ids]
    assert text.encode("x")[0] == 256


def test_a_template_may_be_a_file_or_one_of_several_and_tokens_may_be_described(tmp_path):
    several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ bos_token }}yes"}]
    folder = folder_of(tmp_path, bos_token={"content": "<s>"}, chat_template=several)
    assert Text(folder, vocab=300).chat(HELLO) == [256, *tokenizer_of().encode("yes").ids]
    (folder / "chat_template.jinja").write_text("file")
    assert Text(folder, vocab=300).chat(HELLO) == tokenizer_of().encode("file").ids


def test_chat_is_as_transformers_makes_it(trained, tmp_path):
    import transformers

    folder = shutil.copytree(trained, tmp_path / "model")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    them = transformers.AutoTokenizer.from_pretrained(folder)
    want = them.apply_chat_template(HELLO, add_generation_prompt=True, tokenize=False)
    ours = Text(folder, vocab=1024)
    assert ours.chat(HELLO) == them(want, add_special_tokens=False)["input_ids"]
    for said in ("ROMEO:", "  to be,\n or not é€😀"):
        assert ours.encode(said) == them(said)["input_ids"]


@pytest.mark.parametrize(
    "template, error",
    [
        (None, "{folder}: has no chat template; give a prompt instead"),
        (
            "{{ raise_exception('user first') }}",
            "{folder}: the chat template refuses this conversation: user first",
        ),
        (
            "{{ messages[0].content + 1 }}",
            (
                "{folder}: the chat template refuses this conversation: "
                'can only concatenate str (not "int") to str'
            ),
        ),
    ],
)
def test_a_conversation_that_cannot_be_is_one_error(tmp_path, template, error):
    text = Text(folder_of(tmp_path, chat_template=template), vocab=300)
    with pytest.raises(UsageError) as caught:
        text.chat(HELLO)
    assert str(caught.value) == error.format(folder=tmp_path)


def test_a_template_cannot_reach_the_host(tmp_path):
    text = Text(
        folder_of(tmp_path, chat_template="{{ ''.__class__.__mro__[1].__subclasses__() }}"), vocab=300
    )
    with pytest.raises(UsageError, match="unsafe"):
        text.chat(HELLO)


@pytest.mark.parametrize(
    "file, content, error",
    [
        (
            "tokenizer.json",
            None,
            "{file}: is not there. Text needs it; tokens can be given as numbers without",
        ),
        ("tokenizer.json", "{", "{file}: cannot be read: "),
        ("tokenizer_config.json", "{", "{file}: is not JSON: "),
        ("tokenizer_config.json", "[]", "{file}: must be an object, got list"),
        ("chat_template.jinja", "{% if %}", "{folder}: the chat template cannot be read: "),
    ],
)
def test_a_damaged_file_is_one_error_that_names_it(tmp_path, file, content, error):
    folder_of(tmp_path)
    (tmp_path / file).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(UsageError) as caught:
        Text(tmp_path, vocab=300)
    assert str(caught.value).startswith(error.format(file=tmp_path / file, folder=tmp_path))


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder_of(tmp_path)
    Text(tmp_path, vocab=258)
    with pytest.raises(UsageError) as caught:
        Text(tmp_path, vocab=257)
    assert str(caught.value) == (
        f"{tmp_path / 'tokenizer.json'}: has token 257, but config.json has vocab_size 257: another model's"
    )
