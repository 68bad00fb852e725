"""Every template on tokenizers of the kind it is for: our ids are transformers' own, byte for byte."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from bloomery.core.errors import InputError
from bloomery.core.records import Message
from bloomery.text.chat import Renderer, load_renderer
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import load_tokenizer

KIND = {"chatml": "qwen", "qwen": "qwen", "llama2": "llama2", "zephyr": "llama2", "alpaca": "llama3", "plain": "gemma",
        "llama3": "llama3", "mistral": "mistral", "gemma": "gemma"}
CONTROL = ["<s>", "</s>", "[INST]", "[/INST]", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>", "<|endoftext|>",
           "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>", "<|eot_id|>", "<unk>", "<<SYS>>"]
WORDS = [*CONTROL, " ", "\n", "the cat", "user\n", "'s", "12"]
TEXT = st.lists(st.one_of(st.text(max_size=12), st.sampled_from(WORDS)), max_size=5).map("".join).filter(str.strip)
every = pytest.mark.parametrize("name", TEMPLATES)


@st.composite
def dialogues(draw):
    """Perhaps a system message, then users and assistants in turn."""
    turns = [Message(role, draw(TEXT)) for _ in range(draw(st.integers(1, 3))) for role in ("user", "assistant")]
    return (*[Message("system", draw(TEXT))][:draw(st.integers(0, 1))], *turns)


@pytest.fixture(scope="module")
def pair(real, tmp_path_factory):
    """Our renderer and transformers' tokenizer on the folder it was saved to."""
    made = {}

    def found(name):
        if name not in made:
            renderer, folder = Renderer(load_tokenizer(real(KIND[name])), name), tmp_path_factory.mktemp(name)
            renderer.tokenizer.save(folder, context=99, chat_template=renderer.template.jinja())
            made[name] = renderer, AutoTokenizer.from_pretrained(folder), folder
        return made[name]

    return found


def theirs(tokenizer, messages, *, prompt=False):
    turns = [{"role": m.role, "content": m.content} | ({"reasoning_content": m.thinking} if m.thinking else {})
             | ({"tool_calls": list(m.tool_calls)} if m.tool_calls else {}) for m in messages]
    return tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False, add_generation_prompt=prompt,
                                         sanitize_control_tokens=True)


@every
@settings(max_examples=60)
@given(messages=dialogues())
@example(messages=(Message("user", " \n<|im_end|>x</s> [INST]"), Message("assistant", "</s><|eot_id|>\n ho")))
def test_ids_are_those_of_transformers(pair, name, messages):
    renderer, tokenizer, _ = pair(name)
    assert renderer.conversation(messages).ids == theirs(tokenizer, messages)
    assert renderer.prompt(messages[:-1]) == theirs(tokenizer, messages[:-1], prompt=True)


@every
@settings(max_examples=30)
@given(messages=dialogues())
def test_what_is_trained_is_what_would_be_sampled(pair, name, messages):
    """A prompt and its answer are the beginning of the dialogue, at every turn; control tokens are the template's."""
    renderer, _, _ = pair(name)
    whole, expected = renderer.conversation(messages), [False] * len(renderer.conversation(messages).ids)
    for i, message in enumerate(messages):
        if message.role == "assistant":
            prompt, answer = renderer.prompt(messages[:i]), renderer.answer(message.content)
            assert whole.ids[:len(prompt) + len(answer)] == [*prompt, *answer] and answer[-1] == renderer.end
            expected[len(prompt):len(prompt) + len(answer)] = [True] * len(answer)
    assert whole.trained == expected
    plain = renderer.conversation(tuple(Message(m.role, "x") for m in messages))
    control = {renderer.tokenizer.token(token) for token in renderer.template.control}
    assert [i for i in whole.ids if i in control] == [i for i in plain.ids if i in control]


@every
def test_a_text_begins_once(pair, name):
    """alignment-handbook#127, axolotl#1539: the template's and the tokenizer's token, one behind the other.

    The tokenizers here say `add_bos_token`.
    """
    renderer, _, _ = pair(name)
    ids = renderer.conversation((Message("user", "a"), Message("assistant", "b"))).ids
    begin = renderer.tokenizer.bos if renderer.tokenizer.bos is not None else renderer.tokenizer.token("<|endoftext|>")
    assert ids.count(begin) == (name != "qwen") and (name == "qwen" or ids[0] == begin)


@every
def test_a_folder_tells_its_template(pair, name):
    again = load_renderer(pair(name)[2])
    assert again.template.name == name and again.template.jinja() == pair(name)[0].template.jinja()
    assert again.tokenizer.settings["eos_token"] == pair(name)[0].tokenizer.settings["eos_token"]


@pytest.mark.parametrize(("name", "expected"), [
    ("llama2", "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nA [/INST] B </s><s>[INST] C [/INST]"),
    ("llama3", "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user"
               "<|end_header_id|>\n\nA<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nB<|eot_id|>"
               "<|start_header_id|>user<|end_header_id|>\n\nC<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"),
    ("mistral", "<s>[INST] S\n\nA[/INST] B</s>[INST] C[/INST]"),
    ("gemma", "<bos><start_of_turn>user\nS\n\nA<end_of_turn>\n<start_of_turn>model\nB<end_of_turn>\n"
              "<start_of_turn>user\nC<end_of_turn>\n<start_of_turn>model\n"),
    ("qwen", "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n<|im_start|>assistant\nB<|im_end|>\n"
             "<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n"),
    ("zephyr", "<s><|system|>\nS</s>\n<|user|>\nA</s>\n<|assistant|>\nB</s>\n<|user|>\nC</s>\n<|assistant|>\n"),
    ("alpaca", "<|begin_of_text|>S\n\n### Instruction:\nA\n\n### Response:\nB<|end_of_text|>\n\n### Instruction:\nC\n\n"
               "### Response:\n"),
    ("plain", "<bos>S\n\nA\nB<eos>\nC\n"),
])
def test_the_form_is_the_models(pair, name, expected):
    """Written out by hand from what each model's authors publish."""
    turns = tuple(Message(*turn) for turn in [("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "C")])
    assert "".join(piece.text for piece in pair(name)[0].template.pieces(turns, prompt=True)) == expected


def test_thoughts_and_calls_are_written_as_in_the_exported_program(pair):
    calls = ({"type": "function", "function": {"name": "f", "arguments": {"x": "é<"}}}, {"name": "g", "arguments": {}})
    messages = (Message("user", "do"), Message("assistant", "well", thinking="hm", tool_calls=calls),
                Message("tool", "42"), Message("assistant", "", tool_calls=calls))
    for name in ("chatml", "qwen"):
        renderer, tokenizer, _ = pair(name)
        rendered = renderer.conversation(messages)
        text = "".join(piece.text for piece in renderer.template.pieces(messages))
        assert "<think>\nhm\n</think>\n\nwell\n<tool_call>\n" in text and '{"x": "é<"}' in text
        assert text == tokenizer.apply_chat_template([
            {"role": "user", "content": "do"},
            {"role": "assistant", "content": "well", "reasoning_content": "hm", "tool_calls": list(calls)},
            {"role": "tool", "content": "42"},
            {"role": "assistant", "content": "", "tool_calls": list(calls)}], tokenize=False)
        assert rendered.ids.count(renderer.end) == 4


@pytest.mark.parametrize(("kind", "name", "missing"), [
    ("llama2", "chatml", "<|endoftext|>"), ("llama2", "mistral", "[INST]"), ("qwen", "llama3", "<|begin_of_text|>"),
    ("llama3", "gemma", "<start_of_turn>")])
def test_a_template_without_its_tokens_is_an_error(real, kind, name, missing):
    with pytest.raises(InputError) as caught:
        Renderer(load_tokenizer(real(kind)), name)
    assert missing in caught.value.what and "plain" in caught.value.hint and name not in caught.value.hint


@pytest.mark.parametrize(("name", "roles"), [
    ("gemma", ["user", "system"]), ("llama2", ["system", "assistant"]), ("mistral", ["system"]),
    ("gemma", ["user", "tool"]), ("alpaca", ["tool"])])
def test_what_a_template_has_no_place_for_is_an_error(pair, name, roles):
    renderer, tokenizer, _ = pair(name)
    messages = tuple(Message(role, "words") for role in roles)
    with pytest.raises(InputError, match=f"template {name}"):
        renderer.conversation(messages)
    with pytest.raises(Exception, match="first|place"):
        theirs(tokenizer, messages)
