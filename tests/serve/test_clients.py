"""The clients people use, unmodified, against the live server.

The npm packages `openai`, `ai` and `@ai-sdk/openai-compatible` are looked for in `BLOOMERY_NODE_MODULES`,
lm-evaluation-harness in the interpreter that `BLOOMERY_LM_EVAL` names, the questions it asks in `BLOOMERY_DATA`;
what is not there is skipped, and said.
"""

import gzip
import json
import math
import os
import shutil
import subprocess
from itertools import groupby
from pathlib import Path

import pytest

from bloomery.generate.engine import Engine
from bloomery.model.store import load_model
from bloomery.text.tokenizer import load_tokenizer

openai = pytest.importorskip("openai", reason="the openai package is not installed: its client is not tried")

HERE = Path(__file__).parent
MODEL = "tiny"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello there"}]
ASKED = {"messages": MESSAGES, "max_tokens": 12, "temperature": 1, "seed": 5}
DATA = Path(os.environ.get("BLOOMERY_DATA", HERE.parents[2] / "shared" / "data")).absolute()
QUESTIONS = {"arc_easy": DATA / "eval_gauntlet" / "arc_easy.jsonl.gz",
             "lambada": DATA / "eval_gauntlet" / "lambada_openai.jsonl.gz"}


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=0, timeout=60) as made:
        yield made


def test_models(client):
    assert client.models.retrieve(MODEL).owned_by == "bloomery"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("../../etc")
    assert caught.value.code == "model_not_found"


def test_chat(client):
    answer = client.chat.completions.create(model=MODEL, **ASKED)
    choice, usage = answer.choices[0], answer.usage
    assert choice.message.role == "assistant" and choice.message.content and choice.finish_reason in ("stop", "length")
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens and usage.completion_tokens <= 12
    assert answer._request_id.startswith("req_") and answer.object == "chat.completion"
    again = client.chat.completions.create(model=MODEL, **ASKED)
    assert again.choices[0].message.content == choice.message.content and again.id != answer.id


def test_streamed_text_is_the_whole_text(client):
    whole = client.chat.completions.create(model=MODEL, **ASKED, n=3)
    text, roles, finishes, usage, ids = ["", "", ""], [], {}, None, set()
    for chunk in client.chat.completions.create(model=MODEL, **ASKED, n=3, stream=True,
                                                stream_options={"include_usage": True}):
        ids.add(chunk.id)
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text[choice.index] += choice.delta.content or ""
            roles += [choice.index] * ("role" in choice.delta.model_fields_set)
            if choice.finish_reason:
                assert choice.index not in finishes
                finishes[choice.index] = choice.finish_reason
    assert text == [choice.message.content for choice in whole.choices] and sorted(roles) == [0, 1, 2]
    assert finishes == {choice.index: choice.finish_reason for choice in whole.choices} and len(ids) == 1
    assert usage.completion_tokens == whole.usage.completion_tokens


def test_the_strict_accumulator_reads_a_stream(client):
    whole = client.chat.completions.create(model=MODEL, **ASKED, n=2)
    with client.chat.completions.stream(model=MODEL, **ASKED, n=2) as stream:
        stream.until_done()
    gathered = stream.current_completion_snapshot.choices
    assert [c.message.content for c in gathered] == [c.message.content for c in whole.choices]


def test_logprobs(client):
    answer = client.chat.completions.create(model=MODEL, **ASKED | {"temperature": 0}, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    assert all(len(token.top_logprobs) == 3 and token.logprob == token.top_logprobs[0].logprob <= 0 for token in tokens)
    said = bytes(byte for token in tokens for byte in token.bytes).decode(errors="replace")
    assert said.startswith(answer.choices[0].message.content)


def test_completions_echo_scores_the_prompt(client):
    """The same token has the same log-probability whether it was given or written."""
    first = client.completions.create(model=MODEL, prompt="one two", max_tokens=4, temperature=0, logprobs=1,
                                      extra_body={"return_token_ids": True})
    choice, prompt = first.choices[0], client.completions.create(
        model=MODEL, prompt="one two", max_tokens=1, temperature=0, logprobs=1, echo=True).choices[0]
    assert prompt.text.startswith("one two") and prompt.logprobs.token_logprobs[0] is None
    given = len(prompt.logprobs.tokens) - 1
    assert prompt.logprobs.token_logprobs[given] == pytest.approx(choice.logprobs.token_logprobs[0], abs=1e-5)
    whole = client.completions.create(model=MODEL, prompt="one two" + choice.text, max_tokens=1, temperature=0,
                                      logprobs=1, echo=True).choices[0]
    assert whole.logprobs.tokens[:given] == prompt.logprobs.tokens[:given]
    assert all(whole.text[at:].startswith(token) for at, token in
               list(zip(whole.logprobs.text_offset, whole.logprobs.tokens))[1:given])     # the first begins a document


def test_completions_take_lists_of_texts_and_of_ids(client):
    texts = client.completions.create(model=MODEL, prompt=["one", "two three"], max_tokens=5, temperature=0, n=2)
    assert [choice.index for choice in texts.choices] == [0, 1, 2, 3]
    assert texts.choices[0].text == texts.choices[1].text                       # greedy
    alone = client.completions.create(model=MODEL, prompt="two three", max_tokens=5, temperature=0)
    assert alone.choices[0].text == texts.choices[2].text
    ids = client.completions.create(model=MODEL, prompt=[[5, 6, 7], [8]], max_tokens=3, temperature=0)
    assert len(ids.choices) == 2 and ids.usage.prompt_tokens == 4


def test_embeddings_are_the_same_in_base64_and_in_numbers(client):
    floats = client.embeddings.create(model=MODEL, input=["one", "two three"], encoding_format="float")
    packed = client.embeddings.create(model=MODEL, input=["one", "two three"])          # base64, unpacked by the client
    for one, other in zip(floats.data, packed.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert math.fsum(value * value for value in one.embedding) == pytest.approx(1, abs=1e-4)
    assert floats.data[0].embedding != floats.data[1].embedding


@pytest.mark.parametrize(("change", "param", "code"), [
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "unsupported_parameter"),
    ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
    ({"temperature": -1}, "temperature", None), ({"temperature": "warm"}, "temperature", None),
    ({"top_p": 0}, "top_p", None), ({"n": 0}, "n", None), ({"n": 100_000}, "n", None),
    ({"messages": []}, "messages", None), ({"messages": [{"role": "king", "content": "x"}]}, "messages", None),
    ({"messages": [{"role": "user", "content": ""}]}, "messages", None),
    ({"messages": [{"role": "user", "content": "word " * 20_000}]}, "messages", "context_length_exceeded"),
    ({"stop": [""]}, "stop", None), ({"stop": ["a"] * 5}, "stop", None), ({"max_tokens": 0}, "max_tokens", None),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", None),
    ({"logit_bias": {"9999999": 1}}, "logit_bias", None), ({"extra_body": {"temperatur": 1}}, "temperatur", None),
    ({"stream_options": {"include_usage": True}}, "stream_options", None)])
def test_what_cannot_be_done_is_a_400_that_names_the_field(client, change, param, code):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**{"model": MODEL, **ASKED, **change})
    assert caught.value.param.startswith(param) and (code is None or caught.value.code == code)
    assert caught.value.request_id.startswith("req_")


def test_an_unknown_field_is_answered_with_the_nearest(client):
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model=MODEL, **ASKED, extra_body={"temperatur": 1})


def test_an_unknown_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="gpt-4", **ASKED)
    assert caught.value.code == "model_not_found"


def test_deterministic_failures_are_asked_once(server):
    """The client repeats 408, 409, 429 and 5xx: none of those may answer what can never succeed."""
    sent = []

    class Counting(openai.DefaultHttpxClient):
        def send(self, request, **options):
            sent.append(request.url.path)
            return super().send(request, **options)

    with Counting() as counting:
        patient = openai.OpenAI(base_url=server.base_url, api_key="none", max_retries=2, http_client=counting)
        for change in ({"n": 0}, {"messages": [{"role": "user", "content": "word " * 20_000}]}, {"model": "gpt-4"}):
            with pytest.raises(openai.APIStatusError):
                patient.chat.completions.create(**{"model": MODEL, **ASKED, **change})
    assert len(sent) == 3


# --- clients in other languages -----------------------------------------------------------------------------------

@pytest.fixture
def node(server, tmp_path):
    """Run one of the scripts with node and return what it printed."""
    packages = os.environ.get("BLOOMERY_NODE_MODULES")
    if not (packages and Path(packages).is_dir() and shutil.which("node")):
        pytest.skip("no node, or BLOOMERY_NODE_MODULES does not name a folder of npm packages")

    def run(script: str) -> dict:
        (tmp_path / "node_modules").symlink_to(Path(packages).absolute())       # modules are looked for beside the file
        shutil.copy(HERE / "clients" / script, tmp_path)
        done = subprocess.run(["node", script, server.base_url, MODEL], cwd=tmp_path, text=True, timeout=120,
                              capture_output=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_openai_of_npm(node, client):
    found, mine = node("openai.mjs"), client.chat.completions.create(model=MODEL, **ASKED, n=2)
    said = mine.choices[0].message.content
    assert MODEL in found["models"] and found["whole"]["message"]["content"] == found["text"] == said and found["id"]
    assert found["roles"] == ["assistant"] and found["finishes"] == [mine.choices[0].finish_reason]
    both = [choice.message.content for choice in mine.choices]
    assert [choice["message"]["content"] for choice in found["two"]] == both
    assert [choice["message"]["content"] for choice in found["gathered"]] == both
    assert found["usage"]["completion_tokens"] <= 12
    assert len(found["two"][0]["logprobs"]["content"][0]["top_logprobs"]) == 2
    assert found["scored"]["logprobs"]["token_logprobs"][0] is None and found["scored"]["text"].startswith("one two")
    assert found["refused"] == {"kind": "BadRequestError", "status": 400, "param": "tools",
                                "code": "unsupported_parameter", "id": True}
    floats, packed = found["embeddings"]
    assert [pytest.approx(one, abs=1e-6) for one in floats] == packed


def test_ai_sdk(node, client):
    found, asked = node("ai_sdk.mjs"), ASKED | {"messages": MESSAGES[1:]}
    mine = client.chat.completions.create(model=MODEL, **asked)
    assert found["whole"] == found["streamed"] == mine.choices[0].message.content and found["problems"] == []
    assert found["finish"] == found["streamFinish"] == mine.choices[0].finish_reason
    assert found["usage"]["outputTokens"] == found["streamUsage"]["outputTokens"] == mine.usage.completion_tokens
    assert found["completed"] and len(found["embeddings"]) == 2
    assert found["refused"]["status"] == 400 and not found["refused"]["retry"]


# --- lm-evaluation-harness ----------------------------------------------------------------------------------------

def questions(name: str, count: int, longest: int) -> list[dict]:
    """The first few short questions: a tiny model has a token for every few bytes and a small context."""
    with gzip.open(QUESTIONS[name], "rt", encoding="utf-8") as lines:
        rows = (json.loads(line) for line in lines)
        short = (row for row in rows if len(row.get("query", row.get("context", ""))) < longest)
        return [row for row, _ in zip(short, range(count))]


TASKS = {
    "arc_easy": {"output_type": "multiple_choice", "doc_to_text": "{{query}}", "doc_to_choice": "choices",
                 "doc_to_target": "gold"},
    "lambada": {"output_type": "loglikelihood", "doc_to_text": "{{context}}",
                "doc_to_target": "{{' ' + continuation}}"},
}


@pytest.mark.parametrize(("task", "count"), [("arc_easy", 20), ("lambada", 20)])
@pytest.mark.slow
def test_lm_eval_equals_offline_scoring(server, tiny_folder, tmp_path, task, count):
    python = os.environ.get("BLOOMERY_LM_EVAL")
    if not python:
        pytest.skip("BLOOMERY_LM_EVAL does not name the interpreter lm-eval is installed for")
    if not QUESTIONS[task].is_file():
        pytest.skip(f"no public questions in {DATA}: set BLOOMERY_DATA")
    rows, name = questions(task, count, 200), f"sample_{task}"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / f"{name}.yaml").write_text(json.dumps({                             # JSON is YAML
        "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test", "target_delimiter": " ", "metric_list": [{"metric": "acc"}], **TASKS[task]}))
    arguments = {"model": MODEL, "base_url": f"{server.base_url}/completions", "tokenizer": tiny_folder,
                 "tokenizer_backend": "huggingface", "max_retries": 1, "num_concurrent": 4}
    done = subprocess.run(
        [python, "-m", "lm_eval", "--model", "local-completions", "--tasks", name, "--include_path", str(tmp_path),
         "--model_args", ",".join(f"{key}={value}" for key, value in arguments.items()),
         "--output_path", str(tmp_path / "out"), "--log_samples"],
        text=True, capture_output=True, timeout=600,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")})
    assert done.returncode == 0, done.stderr[-3000:]
    samples = [json.loads(line) for path in (tmp_path / "out").rglob(f"samples_{name}*.jsonl")
               for line in path.read_text().splitlines()]
    asked = [(argument["arg_0"], argument["arg_1"], response[0][0]) for sample in samples
             for argument, response in zip(sample["arguments"].values(), sample["resps"], strict=True)]
    assert len(samples) == len(rows) and len(asked) == sum(len(row.get("choices", [0])) for row in rows)
    for got, expected in zip([float(logp) for _, _, logp in asked], offline(tiny_folder, asked), strict=True):
        assert got == pytest.approx(expected, abs=1e-5)


def offline(folder: Path, asked: list[tuple[str, str, str]]) -> list[float]:
    """The same log-probabilities from the engine, without a server: contexts once, their continuations as forests."""
    tokenizer = load_tokenizer(folder)
    engine = Engine(load_model(folder), tokenizer, slots=2)
    contexts, continuations = [], []
    for context, group in groupby(asked, key=lambda one: one[0]):
        ids = tokenizer.encode(context)
        contexts.append(ids)
        continuations.append([tokenizer.encode(context + continuation)[len(ids):] for _, continuation, _ in group])
    return [logp for scores in engine.score(contexts, continuations) for logp in scores]
