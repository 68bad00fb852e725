"""What may be asked and what is answered: OpenAI's shapes, strict, and the few fields they do not have.

Beyond OpenAI's fields, completions and chat take those of `Extended`; the order in which sampling options act is that
of `generate/sampling.py`.  Reported log-probabilities are always the model's own: temperature 1, no filter, no penalty.
What depends on the server's settings (how many stops, how long a prompt) is checked in `reading.py`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from bloomery.core.config import Settings

INTEGER = 2**53                                 # beyond it JSON's numbers are no longer exact
Id = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, Field(min_length=1)]
Speech = Annotated[str, Field(json_schema_extra={"pattern": r"\S"})]
Ids = Annotated[list[Id], Field(min_length=1)]
Bias = Annotated[dict[Annotated[str, Field(pattern=r"^[0-9]{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
                 Field(description="added to the logit of a token id before anything else")]


# --- what is asked ------------------------------------------------------------------------------------------------

class TextPart(Settings):
    type: Literal["text"]
    text: str


class ChatMessage(Settings):
    """One turn; `developer` is another word for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Speech | Annotated[list[TextPart], Field(min_length=1, json_schema_extra={
        "contains": {"properties": {"text": {"pattern": r"\S"}}}})]


class StreamOptions(Settings):
    include_usage: bool | None = Field(False, description="send a last chunk with the token counts")


class Extended(Settings):
    """What completions and chat have in common."""

    model: str = Field(description="an id of GET /v1/models")
    temperature: float | None = Field(1.0, ge=0, le=2, description="0, or below 0.001, takes the likeliest token, "
                                      "the lowest id on ties")
    top_p: float | None = Field(1.0, gt=0, le=1, description="keep the likeliest tokens up to this probability mass")
    n: int | None = Field(1, ge=1, le=1024, description="answers")
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = Field(
        None, description="texts that end an answer; they are not part of it")
    seed: int | None = Field(None, ge=-INTEGER, le=INTEGER, description="the same seed gives the same bytes")
    stream: bool | None = Field(False, description="send the answer in pieces, as server-sent events")
    stream_options: StreamOptions | None = Field(None, description="only with stream")
    logit_bias: Bias | None = None
    presence_penalty: float | None = Field(0.0, ge=-2, le=2, description="taken once from tokens already generated")
    frequency_penalty: float | None = Field(0.0, ge=-2, le=2, description="taken for each time they were")
    user: str | None = Field(None, description="accepted, not used")
    metadata: dict[str, str] | None = Field(None, description="accepted, not used")
    # beyond OpenAI
    top_k: int | None = Field(0, ge=0, le=INTEGER, description="keep this many tokens; 0: all")
    min_p: float | None = Field(0.0, ge=0, le=1, description="keep tokens this share as likely as the likeliest")
    typical_p: float | None = Field(1.0, gt=0, le=1, description="keep tokens of typical information up to this mass")
    repetition_penalty: float | None = Field(1.0, ge=0.01, le=100, description="divides logits of tokens seen before")
    no_repeat_ngram_size: int | None = Field(0, ge=0, le=1024, description="no run of this many tokens comes twice")
    bad_words: list[Text] | None = Field(None, description="words that are never written")
    min_tokens: int | None = Field(0, ge=0, le=INTEGER, description="tokens before an answer may end by itself")
    ignore_eos: bool | None = Field(False, description="write on to max_tokens whatever the model says")
    return_token_ids: bool | None = Field(False, description="add token_ids to every choice, the end token included")
    num_beams: int | None = Field(1, ge=1, le=64, description="beam search of this width; not with sampling or stream")
    length_penalty: float | None = Field(1.0, ge=-10, le=10, description="beam scores are divided by length to this")
    best_of: int | None = Field(None, ge=1, le=1024, description="candidates of which the n best are answered")
    reward: Text | Annotated[list[Text], Field(min_length=1, max_length=16)] | None = Field(
        None, description="what judges candidates, or the n answers: ids of served reward models, or logp")
    combine: Literal["mean", "min", "lower", "variance"] | None = Field(
        "mean", description="how several rewards are one; lower and variance: the mean less their deviation, variance")


class ChatRequest(Extended):
    """POST /v1/chat/completions"""

    messages: list[ChatMessage] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1, le=INTEGER, description="older name of max_completion_tokens")
    max_completion_tokens: int | None = Field(None, ge=1, le=INTEGER, description="default: the rest of the context")
    logprobs: bool | None = Field(False, description="report the log-probability of every token")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="and of this many others; only with logprobs")
    continue_final_message: bool | None = Field(False, description="if the assistant spoke last, go on with that")


class CompletionRequest(Extended):
    """POST /v1/completions"""

    prompt: str | Annotated[list[str], Field(min_length=1)] | Ids | Annotated[list[Ids], Field(min_length=1)] = Field(
        "", description="text begins a document; ids are taken as they are")
    max_tokens: int | None = Field(16, ge=0, le=INTEGER, description="0 only scores the prompt, with echo")
    echo: bool | None = Field(False, description="the prompt, and with logprobs its tokens, come first")
    logprobs: int | None = Field(None, ge=0, le=20, description="alternatives to report with every token")


class EmbeddingRequest(Settings):
    """POST /v1/embeddings"""

    model: str = Field(description="an id of GET /v1/models")
    input: Text | Annotated[list[Text], Field(min_length=1)] | Ids | Annotated[list[Ids], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] | None = Field("float", description="base64: little-endian fp32")
    pooling: Literal["mean", "last", "first"] | None = Field(
        None, description="over hidden states; default: the model's, or the server's")
    user: str | None = Field(None, description="accepted, not used")


class TokenizeRequest(Settings):
    """POST /tokenize: text, or a conversation as the model would be fed it."""

    model: str = Field(description="an id of GET /v1/models")
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None


class DetokenizeRequest(Settings):
    """POST /detokenize"""

    model: str = Field(description="an id of GET /v1/models")
    tokens: list[Id]




# --- what is answered ---------------------------------------------------------------------------------------------

class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Answer):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(Answer):
    error: ErrorDetail


class ModelCard(Answer):
    id: str
    object: Literal["model"]
    created: int
    owned_by: Literal["bloomery"]
    kind: Literal["chat", "completion", "reward", "embedding"]
    context: int
    parameters: int
    checkpoint: str | None = Field(None, description="the checkpoint that is served, of a training")


class ModelList(Answer):
    object: Literal["list"]
    data: list[ModelCard]


class PromptDetails(Answer):
    cached_tokens: int


class Usage(Answer):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Candidate(Answer):
    text: str
    score: float
    finish_reason: str
    rewards: dict[str, float] | None = Field(None, description="what each of several rewards gave")


class BestOf(Answer):
    """What best-of-n chose from, best first.

    `kl_bound` is log n - (n - 1) / n nats, which the way from the model never exceeds; `kl` what that way is, judged by
    how likely the answer that was kept is.
    """

    n: int
    reward: str
    scores: list[Candidate]
    kl_bound: float
    kl: float


class Alternative(Answer):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Alternative):
    top_logprobs: list[Alternative]


class ChatLogprobs(Answer):
    content: list[TokenLogprob]
    refusal: None


class SaidMessage(Answer):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Answer):
    index: int
    message: SaidMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]
    score: float | None = None
    token_ids: list[int] | None = None


class ChatCompletion(Answer):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage
    best_of: BestOf | None = None


class Delta(Answer):
    role: Literal["assistant"] | None = None
    content: str | None = None


class ChatPiece(Answer):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"] | None
    token_ids: list[int] | None = None


class ChatChunk(Answer):
    """One event of a chat's stream; the last has no choices and the usage, if that was asked for."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatPiece]
    usage: Usage | None = None


class CompletionLogprobs(Answer):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Answer):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]
    score: float | None = None
    token_ids: list[int] | None = None


class TextCompletion(Answer):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChoice]
    usage: Usage
    best_of: list[BestOf] | None = None


class TextPiece(TextChoice):
    finish_reason: Literal["stop", "length"] | None


class TextChunk(Answer):
    """One event of a completion's stream."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextPiece]
    usage: Usage | None = None


class Embedding(Answer):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(Answer):
    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Answer):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class Tokens(Answer):
    tokens: list[int]
    count: int
    max_model_len: int


class Detokenized(Answer):
    prompt: str


class Health(Answer):
    status: Literal["ok", "failed"]
    deterministic: bool
    models: dict[str, str] = Field(description="ok, or what is wrong")
    why: str = Field(description="why answers are not promised to be the same bytes, empty when they are")


class Reloaded(Answer):
    id: str
    checkpoint: str
    changed: bool


REQUESTS = (ChatRequest, CompletionRequest, EmbeddingRequest, TokenizeRequest, DetokenizeRequest)
CHUNKS = {ChatCompletion: ChatChunk, TextCompletion: TextChunk}
