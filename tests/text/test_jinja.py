"""A model's own chat template: the same ids as transformers, masks by construction, nothing but rendering."""

import json

import pytest
from hypothesis import given, settings
from transformers import AutoTokenizer

from bloomery.core.errors import InputError
from bloomery.core.records import Message
from bloomery.text.chat import Renderer, load_renderer
from bloomery.text.jinja import LONGEST
from bloomery.text.templates import TEMPLATES
from bloomery.text.tokenizer import load_tokenizer
from tests.text.test_templates import KIND, TEXT, dialogues, theirs

# As Qwen 3's: a system turn of its own, no trimming, thoughts of earlier turns forgotten, tool answers as a user's.
QWEN3 = """{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{%- endif %}
{%- set ns = namespace(last=messages | length - 1) %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- set thought = message.reasoning_content if message.reasoning_content is defined else '' %}
        {%- if loop.index0 == ns.last and thought %}
            {{- '<|im_start|>assistant\\n<think>\\n' + thought + '\\n</think>\\n\\n' }}
            {{- message.content + '<|im_end|>\\n' }}
        {%- else %}
            {{- '<|im_start|>assistant\\n' }}
            {%- generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}
        {%- endif %}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response><|im_end|>\\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
ASKED = (Message("user", "a cat?"), Message("assistant", "the cat", thinking="hm"), Message("user", "sat?"),
         Message("assistant", "mat", thinking="hm"))
RAW = "{%- for m in messages -%}{{ '<s>' + m.role + ': ' + m.content + '</s>' }}{%- endfor -%}" \
      "{%- if add_generation_prompt -%}{{ '<s>assistant: ' }}{%- endif -%}"


def make(folder, tmp_path, source):
    load_tokenizer(folder).save(tmp_path, context=64, chat_template=source)
    return tmp_path


@pytest.fixture(scope="module")
def foreign(real, tmp_path_factory):
    """A template of ours in words that are not ours, so that it is run; beside it transformers' tokenizer."""
    made = {}

    def found(name):
        if name not in made:
            ours = Renderer(load_tokenizer(real(KIND[name])), name)
            folder = make(real(KIND[name]), tmp_path_factory.mktemp("own"), "{#- theirs -#}\n" + ours.template.jinja())
            made[name] = ours, load_renderer(folder), AutoTokenizer.from_pretrained(folder)
        return made[name]

    return found


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=15)
@given(messages=dialogues())
def test_a_program_is_rendered_as_our_own_template(foreign, name, messages):
    """marin#7237, trl#4201: a template without `{% generation %}` gave masks of nothing, or of everything."""
    ours, run, tokenizer = foreign(name)
    assert run.template.name == "its own" and run.end == ours.end
    assert run.conversation(messages) == ours.conversation(messages)
    assert run.conversation(messages).ids == theirs(tokenizer, messages)
    for i, message in enumerate(messages):
        if message.role == "assistant":
            assert run.prompt(messages[:i]) == ours.prompt(messages[:i])
            assert run.answer(message.content) == ours.answer(message.content)


@pytest.mark.parametrize("name", TEMPLATES)
@given(begun=TEXT)
@settings(max_examples=15)
def test_a_message_that_goes_on(foreign, name, begun):
    """What is broken off is read up to its end and no further, trailing white space included."""
    ours, run, _ = foreign(name)
    messages = (Message("user", "go"), Message("assistant", begun))
    prompt = ours.prompt(messages, continues=True)
    assert prompt == run.prompt(messages, continues=True)
    before = ours.prompt(messages[:1])
    assert prompt[:len(before)] == before and ours.prompt(messages) != prompt
    said = ours.tokenizer.decode(prompt[len(before):], keep_control=True)
    assert said.lstrip() == begun.lstrip() or "\\ufffd" in said or KIND[name] == "llama2"


def test_a_template_that_rewrites_earlier_turns_trains_the_last(real, tmp_path):
    folder = make(real("qwen"), tmp_path, QWEN3)
    tokenizer, last = AutoTokenizer.from_pretrained(folder), load_renderer(folder, train="last")
    rendered = last.conversation(ASKED)
    assert rendered.ids == theirs(tokenizer, ASKED)
    said = [token for token, trained in zip(rendered.ids, rendered.trained, strict=True) if trained]
    assert last.tokenizer.decode(said, keep_control=True) == "<think>\nhm\n</think>\n\nmat<|im_end|>"
    assert last.tokenizer.token("<think>") in said              # the template's own word for it is the token
    plain = tuple(Message(m.role, m.content) for m in ASKED)
    every = load_renderer(folder).conversation(plain)
    assert every.ids == theirs(tokenizer, plain)
    assert sum(every.weights) == len(last.answer("the cat")) + len(last.answer("mat"))


def test_earlier_turns_whose_place_is_lost_are_an_error(real, tmp_path):
    """trl#6105: where a prompt is no beginning of the dialogue, a warning on every row and a mask that is off."""
    source = RAW.replace("m.content", "('...' if not loop.last and m.role == 'assistant' else m.content)")
    source = source.replace("'<s>' + m.role", "'<s>' + (m.role if loop.last or m.role == 'user' else 'model')")
    renderer = load_renderer(make(real("llama2"), tmp_path, source))
    with pytest.raises(InputError, match="turn in message 2 cannot be trained") as caught:
        renderer.conversation(ASKED)
    assert "train_on=last" in caught.value.hint
    assert sum(load_renderer(tmp_path, train="last").conversation(ASKED).weights) > 0


def test_typed_names_of_tokens_that_are_not_special_stay_text(real, tmp_path):
    renderer = load_renderer(make(real("qwen"), tmp_path, QWEN3.replace("Be kind", "Use <tool_call>")))
    call, think = (renderer.tokenizer.token(name) for name in ("<tool_call>", "<think>"))
    ids = renderer.prompt((Message("user", "say <tool_call> or <think>"),))
    assert ids.count(call) == 1 and think not in ids            # the one the template wrote
    assert "say <tool_call> or <think>" in renderer.tokenizer.decode(ids)


@pytest.mark.parametrize(("source", "why"), [
    ("{{ 1 / 0 }}", "ZeroDivisionError"), ("{% for x in %}", "TemplateSyntaxError"),
    ("{{ messages.__class__.__mro__ }}", "SecurityError"),
    ("{{ cycler.__init__.__globals__.os.system('x') }}", "SecurityError"),
    ("{% for i in range(10 ** 12) %}{% endfor %}", "OverflowError"), ("{{ raise_exception('never') }}", "never"),
    ("{{ messages.append(1) }}", "SecurityError"), ("{{ open('/etc/passwd') }}", "UndefinedError"),
    ("{% include 'x' %}", "TypeError"), ("no end at all", "no control token ends"),
    ("{% for m in messages %}{{ m.role + m.content + '</s>' }}{% endfor %}{% if add_generation_prompt %}go{% endif %}",
     "does not begin where its prompt ends"),
    ("{% for i in range(20) %}{{ 'x' * " + str(LONGEST // 10) + " }}{% endfor %}", "OverflowError"),
])
def test_a_program_that_does_anything_else_is_refused(real, tmp_path, source, why):
    with pytest.raises(InputError) as caught:
        load_renderer(make(real("llama2"), tmp_path, source))
    assert why in caught.value.why and "template=" in caught.value.hint


def test_where_a_template_is_found(real, tmp_path):
    """A file of its own, the tokenizer's settings, one of several there; without any, what the tokens allow."""
    settings = json.loads((real("llama2") / "tokenizer_config.json").read_text())
    make(real("llama2"), tmp_path, RAW)
    assert load_renderer(tmp_path).template.jinja() == RAW
    (tmp_path / "chat_template.jinja").unlink()
    for told in (RAW, [{"name": "tool_use", "template": "x"}, {"name": "default", "template": RAW}]):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": told}))
        renderer = load_renderer(tmp_path)
        assert renderer.template.jinja() == RAW and renderer.answers({renderer.end})
    assert load_renderer(tmp_path, "zephyr").template.name == "zephyr"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    guessed = load_renderer(tmp_path)
    assert guessed.template.name == "plain" and not guessed.answers({guessed.end})
    assert load_renderer(real("qwen")).template.name == "chatml"


TOOLS = [{"type": "function", "function": {"name": "add</s>", "parameters": {"a": "int"}}}]


def test_tools_are_told_as_transformers_tells_them_and_cannot_be_control_tokens(real, tmp_path):
    source = "{%- if tools %}{{ '<s>tools: ' + (tools | tojson) + '</s>' }}{% endif -%}" + RAW
    folder = make(real(KIND["llama2"]), tmp_path, source)
    ours = load_renderer(folder)
    harmless = json.loads(json.dumps(TOOLS).replace("</s>", ""))
    asked = AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": ASKED[0].content}], tools=harmless, tokenize=True, return_dict=False,
        add_generation_prompt=True)
    rendered = ours.conversation(ASKED, tools=harmless)
    assert ours.prompt(ASKED[:1], tools=harmless) == asked == rendered.ids[:len(asked)]
    assert not any(rendered.weights[:len(asked)]) and any(rendered.weights[len(asked):])
    end = ours.tokenizer.token("</s>")
    assert ours.conversation(ASKED, tools=TOOLS).ids.count(end) == rendered.ids.count(end)
    assert ours.conversation(ASKED).ids != rendered.ids


def test_a_template_without_a_place_for_tools_says_so(real):
    ours = Renderer(load_tokenizer(real(KIND["chatml"])), "chatml")
    with pytest.raises(InputError, match="no place for tools") as error:
        ours.conversation(ASKED, tools=TOOLS)
    assert "own template" in error.value.hint
    assert ours.conversation(ASKED, tools=()).ids == ours.conversation(ASKED).ids


@pytest.mark.parametrize("name", TEMPLATES)
def test_control_tokens_around_words_are_known_and_hold_the_turn_end(foreign, name):
    ours, run, _ = foreign(name)
    assert ours.control == run.control and ours.end in ours.control
    assert len(ours.control) <= 6
