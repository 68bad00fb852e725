"""Chat templates as data: what stands around a message, and which of it are control tokens.

A template is a handful of strings.  `pieces` writes a dialogue with them, each piece knowing whether it is a control
token and whose words it is; `jinja` writes the same rules for other tools.  White space around a message is not part
of it.  Left out: the system messages some models have by default, and tool turns where their form is not one string.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

from bloomery.core.errors import InputError
from bloomery.core.records import ROLES, Message
from bloomery.text.tokenizer import END_OF_TEXT, TURN_END, TURN_START, anyof

NOBODY = -1                             # whose words headers, questions and all else are that is read and not said


class Piece(NamedTuple):
    """Text, or the name of a control token. `turn` is the index of the assistant's message that says it."""

    text: str
    control: bool = False
    turn: int = NOBODY


@dataclass(frozen=True)
class Template:
    """`{content}` is a message, `{bos}` and `{eos}` are the tokenizer's own tokens, `control` names all others.

    What ends a turn is always a control token, so that no words can end it.
    """

    name: str
    turns: dict[str, str]               # what a system, user or tool message becomes; a role left out has no place
    header: str                         # where the assistant begins to speak: the end of a prompt
    end: str                            # the control token that ends what it says
    answer: str = "{content}"           # what it says before that
    after: str = ""                     # what follows and is not said
    begin: str = ""                     # before everything
    fold: str = ""                      # for want of a system turn, stands before the first user's words: `{system}`
    preamble: str = ""                  # the system's words, where a dialogue has none
    control: tuple[str, ...] = ()

    def bound(self, bos: str, eos: str) -> "Template":
        """With a tokenizer's own tokens for `{bos}` and `{eos}`."""
        def filled(value: str | dict | tuple) -> str | dict | tuple:
            if isinstance(value, str):
                return value.replace("{bos}", bos).replace("{eos}", eos)
            return {role: filled(text) for role, text in value.items()} if isinstance(value, dict) else value

        own = tuple(token for token in (bos, eos) if token)
        values = {field.name: filled(getattr(self, field.name)) for field in fields(self)}
        return replace(self, **values | {"control": tuple(dict.fromkeys((*self.control, *own)))})

    @property
    def needs(self) -> tuple[str, ...]:
        """The control tokens this template writes."""
        written = "\0".join([self.begin, self.header, self.end, self.answer, self.after, *self.turns.values()])
        return tuple(name for name in self.control if name in written)

    def pieces(self, messages: tuple[Message, ...], *, prompt: bool = False,
               tools: Sequence[dict] = ()) -> list[Piece]:
        """A dialogue, and for a `prompt` the header behind it."""
        if tools:
            raise InputError(f"template {self.name} has no place for tools",
                             why=f"this dialogue comes with {len(tools)}: how they are told is each model's own",
                             hint="use a model's own template (template=auto), or take the column tools out")
        out, told = self._written(self.begin), ""
        if self.preamble and not (messages and messages[0].role == "system"):
            out += self._written(self.turns["system"], content=self.preamble)
        for place, message in enumerate(messages):
            text = words(message)
            if message.role not in ROLES:
                raise InputError(f"unknown role {message.role!r}", why=f"roles are {', '.join(ROLES)}")
            if message.role == "assistant":
                out += [*self._written(self.header), *self.said(text, place), *self._written(self.after)]
            elif message.role in self.turns:
                out += self._written(self.turns[message.role], content=text, system=told)
                told = ""
            elif message.role == "system" and self.fold:
                if place or [turn.role for turn in messages[1:2]] != ["user"]:
                    raise InputError(f"template {self.name} cannot write this system message",
                                     why="it stands inside the user's message that begins the dialogue",
                                     hint="put one system message first and a user's behind it")
                told = text
            else:
                raise InputError(f"template {self.name} has no place for role {message.role!r}",
                                 hint=f"it writes {', '.join([*self.turns, 'assistant'])}")
        return out + (self._written(self.header) if prompt else [])

    def said(self, text: str, turn: int = 0, *, ends: bool = True) -> list[Piece]:
        """What the assistant says, and unless it is broken off what ends its turn."""
        whole, begun = self.answer + self.end, self.answer.partition("{content}")[0] + "{content}"
        return self._written(whole if ends else begun, content=text, turn=turn)

    def _written(self, markup: str, *, content: str = "", system: str = "", turn: int = NOBODY) -> list[Piece]:
        """Pieces of markup; only in markup is a control token's name the token."""
        if system:
            markup = markup.replace("{content}", self.fold + "{content}")
        values = {"{content}": content, "{system}": system}
        parts = anyof((*self.control, *values)).split(markup)
        return [Piece(values.get(part, part), part in self.control, turn) for part in parts if part]

    def jinja(self) -> str:
        """The same rendering for `transformers`, whose `apply_chat_template` gives the same ids."""
        message, spoken = "(message['content'] | trim)", "(spoken(message) | trim)"
        lines = [SPOKEN, show(quoted(self.begin))] if self.begin else [SPOKEN]
        if self.preamble:
            lines += ["{%- if not messages or messages[0]['role'] != 'system' -%}",
                      show(quoted(self.turns["system"].replace("{content}", self.preamble))), "{%- endif -%}"]
        lines += ["{%- for message in messages -%}", "{%- if message['role'] == 'assistant' -%}",
                  show(quoted(self.header + self.answer + self.end + self.after, content=spoken))]
        if self.fold:
            told = quoted(self.turns["user"].replace("{content}", self.fold + "{content}"), content=message,
                          system="(messages[0]['content'] | trim)")
            lines += ["{%- elif message['role'] == 'system' -%}",
                      "{%- if not loop.first or loop.last or messages[1]['role'] != 'user' -%}",
                      show("raise_exception('one system message comes first, with a user message behind it')"),
                      "{%- endif -%}",
                      "{%- elif message['role'] == 'user' and loop.index0 == 1 and messages[0]['role'] == 'system' -%}",
                      show(told)]
        for role, turn in self.turns.items():
            lines += [f"{{%- elif message['role'] == '{role}' -%}}", show(quoted(turn, content=message))]
        lines += ["{%- else -%}", show("raise_exception('no place for the role ' + message['role'])"),
                  "{%- endif -%}", "{%- endfor -%}"]
        if self.header:
            lines += ["{%- if add_generation_prompt -%}", show(quoted(self.header)), "{%- endif -%}"]
        return "\n".join(lines) + "\n"


def words(message: Message) -> str:
    """What a message says, without the white space around it."""
    if not (text := message.spoken.strip()):
        raise InputError("an empty message cannot be rendered", why="there would be nothing to read or to learn")
    return text


def show(expression: str) -> str:
    return f"{{{{- {expression} -}}}}"


def quoted(markup: str, **values: str) -> str:
    """Markup as a Jinja expression, `{name}` in it replaced by the expression `values[name]`."""
    values |= {"bos": "bos_token", "eos": "eos_token"}
    parts = anyof(f"{{{name}}}" for name in values).split(markup)
    return " + ".join(values.get(part.strip("{}"), literal(part)) for part in parts if part) or "''"


def literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


# What `Message.spoken` says: thoughts, words, calls.
SPOKEN = r"""{%- macro spoken(m) -%}
{%- if m['reasoning_content'] -%}{{- '<think>\n' + m['reasoning_content'] + '\n</think>\n\n' -}}{%- endif -%}
{{- m['content'] or '' -}}
{%- for call in m['tool_calls'] or [] -%}
{{- '\n' if m['content'] or not loop.first -}}
{{- '<tool_call>\n' + ((call['function'] if 'function' in call else call) | tojson) + '\n</tool_call>' -}}
{%- endfor -%}
{%- endmacro -%}"""


def framed(turn: str, **roles: str) -> dict[str, str]:
    """Turns that differ in the role's name alone, system and user by their own."""
    return {role: turn.replace("{role}", name) for role, name in {"system": "system", "user": "user", **roles}.items()}


IM = TURN_START + "{role}\n{content}" + TURN_END + "\n"
TOOL = "<tool_response>\n{content}\n</tool_response>"
BELOW = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
HEAD = "<|start_header_id|>{role}<|end_header_id|>\n\n"
TEMPLATES = {template.name: template for template in [
    Template("chatml", framed(IM, tool="tool"), TURN_START + "assistant\n", TURN_END, after="\n", begin=END_OF_TEXT,
             control=(END_OF_TEXT, TURN_START, TURN_END)),
    # Meta's code: every exchange begins with {bos}, as if it were a text of its own
    Template("llama2", {"user": "{bos}[INST] {content} [/INST]"}, "", "{eos}", answer=" {content} ",
             fold="<<SYS>>\n{system}\n<</SYS>>\n\n"),
    Template("llama3", framed(HEAD + "{content}<|eot_id|>", tool="ipython"), HEAD.replace("{role}", "assistant"),
             "<|eot_id|>", begin="<|begin_of_text|>",
             control=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    # version 3 of the tokenizer, where the brackets are control tokens; the system's words go first, not last, so that
    # a longer dialogue begins as the shorter did
    Template("mistral", {"user": "[INST] {content}[/INST]"}, "", "{eos}", answer=" {content}", begin="{bos}",
             fold="{system}\n\n", control=("[INST]", "[/INST]")),
    Template("gemma", {"user": "<start_of_turn>user\n{content}<end_of_turn>\n"}, "<start_of_turn>model\n",
             "<end_of_turn>", after="\n", begin="{bos}", fold="{system}\n\n",
             control=("<start_of_turn>", "<end_of_turn>")),
    Template("qwen", framed(IM) | {"tool": IM.format(role="user", content=TOOL)},
             TURN_START + "assistant\n", TURN_END, after="\n", control=(TURN_START, TURN_END)),
    Template("zephyr", framed("<|{role}|>\n{content}{eos}\n"), "<|assistant|>\n", "{eos}", after="\n", begin="{bos}"),
    Template("alpaca", {"system": "{content}\n\n", "user": "### Instruction:\n{content}\n\n"}, "### Response:\n",
             "{eos}", after="\n\n", begin="{bos}", preamble=BELOW),
    Template("plain", {"system": "{content}\n\n", "user": "{content}\n", "tool": "{content}\n"}, "", "{eos}",
             after="\n", begin="{bos}"),
]}
