"""A model's first words on a few prompts: short, seeded, and without touching any random state but its own."""

from collections.abc import Callable, Sequence

from bloomery.core.errors import InputError
from bloomery.core.records import Message
from bloomery.generate.decode import complete
from bloomery.generate.sampling import Sampling
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.text.tokenizer import Tokenizer

HOW = Sampling(temperature=0.8, top_k=50)       # a young model that only takes the likeliest token repeats it for ever


def preview(prompts: Sequence[str], speaks: Tokenizer | Renderer, *, context: int, max_tokens: int = 48,
            how: Sampling = HOW, seed: int = 0) -> Callable[[Transformer], list[dict[str, str]]]:
    """What continues `prompts` with any state of one model: [{"prompt", "text"}, ...].

    A `Tokenizer` continues text, a `Renderer` answers a question.  Raises `InputError` now, not in mid-training, for a
    prompt that leaves no room in `context`.
    """
    chats = isinstance(speaks, Renderer)
    tokenizer = speaks.tokenizer if chats else speaks
    ids = [speaks.prompt((Message("user", prompt),)) if chats else [tokenizer.begin, *tokenizer.encode(prompt)]
           for prompt in prompts]
    for prompt, found in zip(prompts, ids, strict=True):
        if len(found) >= context:
            raise InputError("a sample prompt does not fit", where=prompt[:80],
                             why=f"it has {len(found)} tokens, the model reads {context}", hint="shorten it")
    ends = speaks.ends if chats else {tokenizer.eos}

    def write(model: Transformer) -> list[dict[str, str]]:
        found = complete(model, ids, ends=ends, max_tokens=max_tokens, how=how, seed=seed)
        return [{"prompt": prompt, "text": tokenizer.decode(one.ids)}
                for prompt, one in zip(prompts, found, strict=True)]

    return write
