"""From a request as it was sent to what the engine is asked: prompts in token ids, sampling, ends.

Conversations are rendered by the one renderer training uses.  Text of a completion begins a document, so that the
document token stands before it, as it did in training; token ids are taken as they are.
"""

from secrets import randbits

from bloomery.core.errors import InputError
from bloomery.core.records import Message
from bloomery.generate.request import Request
from bloomery.generate.sampling import Sampling
from bloomery.generate.vectors import as_read
from bloomery.serve.models import Served
from bloomery.serve.reading import invalid, refused, stop_strings, text_of
from bloomery.serve.schema import ChatMessage, ChatRequest, CompletionRequest, Extended

COLD = 1e-3                 # a lower temperature is greedy: logits divided by it would no longer be numbers
ROLE = {"developer": "system"}


def dialogue(messages: list[ChatMessage]) -> tuple[Message, ...]:
    return tuple(Message(ROLE.get(message.role, message.role), text_of(message.content)) for message in messages)


def chat_ids(served: Served, messages: list[ChatMessage], *, goes_on: bool = False) -> list[int]:
    """A conversation up to where the assistant speaks, or, if it `goes_on`, to where its last message breaks off."""
    turns = dialogue(messages)
    try:
        if goes_on and turns[-1].role == "assistant":
            return served.renderer.prompt(turns, continues=True)
        return served.renderer.prompt(turns)
    except InputError as error:
        raise refused(error, "messages") from None


def text_ids(served: Served, given: str | list) -> list[list[int]]:
    """The prompts of a completion: one or several, each text or ids."""
    if isinstance(given, list) and isinstance(given[0], int):
        return [given]
    return [part if isinstance(part, list) else [served.tokenizer.begin, *served.tokenizer.encode(part)]
            for part in ([given] if isinstance(given, str) else given)]


def vector_ids(served: Served, given: str | list) -> list[list[int]]:
    """What a vector is made of: text as the model learned to read it, where it learned that, else as above."""
    if not served.pooling:
        return text_ids(served, given)
    parts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    return [part if isinstance(part, list) else as_read(served.tokenizer.encode(part), served.tokenizer,
                                                         causal=served.config.causal) for part in parts]


def check_room(served: Served, ids: list[int], param: str, *, room: int = 0) -> None:
    """Every id is one of the model's, and `room` more tokens fit behind them."""
    vocabulary = served.config.vocabulary
    if wrong := next((token for token in ids if not 0 <= token < vocabulary), None):
        raise invalid(f"{param}: token id {wrong} is not one of the {vocabulary} of {served.id}", param)
    if len(ids) + room > served.context:
        raise invalid(f"{param}: {len(ids)} tokens, and {served.id} reads {served.context}"
                      + (" with the answer" if room else ""), param, "context_length_exceeded")


def engine_requests(served: Served, body: ChatRequest | CompletionRequest) -> list[Request]:
    """What the engine is asked for, one request a prompt. Encodes text: not for the event loop."""
    chat = isinstance(body, ChatRequest)
    if chat:
        prompts = [chat_ids(served, body.messages, goes_on=bool(body.continue_final_message))]
        wanted, alternatives, scored = body.max_completion_tokens or body.max_tokens, body.top_logprobs or 0, False
    else:
        prompts, wanted = text_ids(served, body.prompt), body.max_tokens
        alternatives, scored = body.logprobs or 0, bool(body.echo and body.logprobs is not None)
    for name, count in (("max_tokens", wanted), ("min_tokens", body.min_tokens)):
        if count is not None and count > served.context:
            raise invalid(f"{name}: {served.id} has a context of {served.context} tokens", name,
                          "context_length_exceeded")
    for ids in prompts:
        check_room(served, ids, "messages" if chat else "prompt", room=wanted != 0)
    how, seed = sampling(served, body), randbits(48) if body.seed is None else body.seed
    return [Request(prompt=tuple(ids), max_tokens=served.context if wanted is None else wanted, how=how,
                    n=max(body.best_of or 1, body.n), seed=seed,
                    ends=frozenset() if body.ignore_eos else served.ends, stops=tuple(stop_strings(body)),
                    min_tokens=body.min_tokens, alternatives=alternatives, prompt_logps=scored) for ids in prompts]


def sampling(served: Served, body: Extended) -> Sampling:
    """How tokens are chosen; a bad word is one with and without the space before it."""
    encode = served.tokenizer.encode
    words = {tuple(encode(form)) for word in body.bad_words or () for form in (word, f" {word}")}
    bias = tuple(sorted((int(token), value) for token, value in (body.logit_bias or {}).items()))
    if wrong := next((token for token, _ in bias if token >= served.config.vocabulary), None):
        raise invalid(f"logit_bias: {served.id} has no token id {wrong}", "logit_bias")
    temperature = body.temperature if body.temperature >= COLD else 0
    return Sampling(temperature=temperature, top_k=body.top_k, top_p=body.top_p, min_p=body.min_p,
                    typical_p=body.typical_p, repetition_penalty=body.repetition_penalty,
                    presence_penalty=body.presence_penalty, frequency_penalty=body.frequency_penalty,
                    no_repeat_ngram=body.no_repeat_ngram_size, logit_bias=bias, bad_words=tuple(sorted(words)))
