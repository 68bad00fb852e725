"""Chat templates as data: what stands around a message. Each also knows its Jinja form for other tools."""

from dataclasses import dataclass

from bloomery.text.tokenizer import END_OF_TEXT, TURN_END, TURN_START


@dataclass(frozen=True)
class Template:
    """A message: `start` control token, `header` with the role filled in, content, `end` control token, `after`."""

    name: str
    begin: str              # control token before the first message, "" for none
    start: str
    header: str
    end: str
    after: str

    def jinja(self) -> str:
        """The same rendering for `transformers`: whitespace around a message is not part of it."""
        header = "'" + self.header.replace("{role}", "' + message['role'] + '").replace("\n", "\\n") + "'"
        after = self.after.replace("\n", "\\n")
        assistant = self.header.replace("{role}", "assistant").replace("\n", "\\n")
        return (f"{{{{- '{self.begin}' -}}}}\n"
                "{%- for message in messages -%}\n"
                f"{{{{- '{self.start}' + {header} + (message['content'] | trim) + '{self.end}{after}' -}}}}\n"
                "{%- endfor -%}\n"
                "{%- if add_generation_prompt -%}\n"
                f"{{{{- '{self.start}{assistant}' -}}}}\n"
                "{%- endif -%}\n")


TEMPLATES = {
    "chatml": Template("chatml", END_OF_TEXT, TURN_START, "{role}\n", TURN_END, "\n"),
}
