"""What is trained and how much, what is cut, and tokenizers that are not ours."""

import json

import pytest

from bloomery.core.errors import InputError
from bloomery.core.records import Message
from bloomery.text.chat import TRUNCATION, Rendered, Renderer, fit
from bloomery.text.tokenizer import CONTROL, SMALLEST, load_tokenizer, train_tokenizer

TALK = (Message("system", "s"), Message("user", "a"), Message("assistant", "b"), Message("user", "c"),
        Message("assistant", "d"))
LONG = Rendered(list(range(10)), [0, 0, 0, 1, 1, 0, 0, 0, 1, 1], fixed=1)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["a b c d"], vocabulary=SMALLEST)


def spoken(renderer, messages):
    rendered = renderer.conversation(messages)
    return [(renderer.tokenizer.decode([i], keep_control=True), w)
            for i, w in zip(rendered.ids, rendered.weights, strict=True) if w]


def test_what_is_trained(tokenizer):
    every = [("b", 1.0), ("<|im_end|>", 1.0), ("d", 1.0), ("<|im_end|>", 1.0)]
    assert spoken(Renderer(tokenizer), TALK) == every
    assert spoken(Renderer(tokenizer, train="last"), TALK) == every[2:]
    assert all(Renderer(tokenizer, train="all").conversation(TALK).trained)
    assert not any(Renderer(tokenizer).conversation(TALK[:2]).trained)
    with pytest.raises(ValueError, match="train must be one of assistant, last, all, got 'none'"):
        Renderer(tokenizer, train="none")


@pytest.mark.parametrize(("train", "expected"), [("assistant", [0.5, 1.0]), ("last", [0.5, 1.0]), ("all", [0.5, 1.0])])
def test_a_message_has_its_own_weight(tokenizer, train, expected):
    messages = (*TALK[:2], Message("assistant", "b", weight=0.5), *TALK[3:])
    found = Renderer(tokenizer, train=train).conversation(messages)
    assert [weight for token, weight in zip(found.ids, found.weights, strict=True)
            if token == tokenizer.turn_end][2::2] == expected
    with pytest.raises(InputError, match="message 2 has a weight"):
        Renderer(tokenizer, train=train).conversation((TALK[0], Message("user", "a", weight=1.0), *TALK[2:]))
    silent = (*TALK[:4], Message("assistant", "d", weight=0))
    assert spoken(Renderer(tokenizer), silent) == [("b", 1.0), ("<|im_end|>", 1.0)]


@pytest.mark.parametrize(("policy", "limit", "kept"), [
    ("drop", 9, None), ("drop", 10, range(10)), ("error", 10, range(10)),
    ("keep_start", 5, range(5)), ("keep_start", 4, range(4)), ("keep_start", 3, None),
    ("keep_end", 4, [0, 7, 8, 9]), ("keep_end", 2, [0, 9]), ("keep_end", 9, [0, *range(2, 10)])])
def test_what_is_too_long_is_cut_as_said(policy, limit, kept):
    """Never so that nothing trained is left."""
    found = fit(LONG, limit, policy)
    assert (found and found.ids) == (kept and list(kept))
    assert found is None or [LONG.weights[i] for i in found.ids] == found.weights and any(found.trained)


def test_a_conversation_that_must_fit_is_an_error():
    with pytest.raises(InputError, match="10 tokens is longer than 9") as caught:
        fit(LONG, 9, "error")
    assert "keep_end" in caught.value.hint
    for limit, policy in ((9, "middle"), (1, "drop")):
        with pytest.raises(ValueError, match=", ".join(TRUNCATION)):
            fit(LONG, limit, policy)


def test_the_first_token_is_kept_with_the_end(tokenizer):
    rendered = Renderer(tokenizer).conversation(TALK)
    cut = fit(rendered, 6, "keep_end")
    assert cut.ids[0] == rendered.ids[0] == tokenizer.bos and cut.ids[1:] == rendered.ids[-5:] and rendered.fixed == 1
    assert Renderer(tokenizer, "qwen").conversation(TALK).fixed == 1


@pytest.mark.parametrize(("kind", "bos", "eos"), [
    ("llama2", "<s>", "</s>"), ("llama3", "<|begin_of_text|>", "<|end_of_text|>"), ("mistral", "<s>", "</s>"),
    ("gemma", "<bos>", "<eos>"), ("qwen", None, "<|endoftext|>")])
def test_other_tokenizers_say_their_roles(real, tmp_path, kind, bos, eos):
    found = load_tokenizer(real(kind))
    assert (found.name(found.bos) or None, found.name(found.eos)) == (bos, eos)
    assert found.begin == (found.eos if bos is None else found.bos)
    text = "the cat <s></s> <|eot_id|><|im_start|> sat\n\n Größe 你好"
    assert found.decode(found.encode(text)).lstrip() == text
    ids = found.piece(text)
    special = {i for i, t in found.backend.get_added_tokens_decoder().items() if t.special}
    assert not special & set(ids) and found.decode(ids).lstrip() == text
    found.save(tmp_path, context=7, chat_template="")
    again, told = load_tokenizer(tmp_path), json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (again.bos, again.eos, again.turn_end) == (found.bos, found.eos, found.turn_end)
    assert told["model_max_length"] == 7 and told["bos_token"] == bos and again.encode(text) == found.encode(text)


def test_a_tokenizer_that_names_no_end_is_an_error(real, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((real("llama3") / "tokenizer.json").read_bytes())
    with pytest.raises(InputError, match="no token ends a text") as caught:
        load_tokenizer(tmp_path)
    assert "eos_token" in caught.value.why
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|eot_id|>", "lstrip": 0}}))
    found = load_tokenizer(tmp_path)
    assert found.name(found.eos) == "<|eot_id|>" and found.bos is None


def test_our_own_folder_is_written_again_byte_for_byte(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "a", context=8, chat_template="x")
    load_tokenizer(tmp_path / "a").save(tmp_path / "b", context=8, chat_template="x")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert load_tokenizer(tmp_path / "b").bos == tokenizer.bos == tokenizer.token(CONTROL[0])
