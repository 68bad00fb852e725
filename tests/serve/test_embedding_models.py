"""Models that learned to make vectors, served: encoders write nothing, and text is read as in training."""

import httpx2 as httpx
import numpy as np
import pytest
from live_server import SETTINGS, make_folder, running

from bloomery.embedding import Embedder
from bloomery.model.vectors import save_pooling
from bloomery.serve.models import open_model, open_models, reread
from bloomery.serve.settings import ServeSettings
from tests.finetune.task_data import model_folder

SETTING = ServeSettings(**SETTINGS)
TEXTS = ["the film was good", "the cast was awful"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """An encoder that is read at [CLS], and a decoder that is read at its last token."""
    root = tmp_path_factory.mktemp("vectors")
    encoder, decoder = model_folder(root / "encoder", "bert"), make_folder(root / "decoder")
    save_pooling(encoder, "first", width=32, context=40)
    save_pooling(decoder, "last", width=24, context=256)
    return [str(encoder), str(decoder)]


@pytest.fixture(scope="module")
def live(folders):
    with running(open_models(folders, SETTING), SETTING) as found, httpx.Client(base_url=found.url) as client:
        yield client


@pytest.mark.parametrize(("name", "place"), [("encoder", 0), ("decoder", 1)])
def test_the_server_reads_texts_as_search_does(live, folders, name, place):
    said = live.post("/v1/embeddings", json={"model": name, "input": TEXTS}).json()
    served = np.array([one["embedding"] for one in said["data"]])
    np.testing.assert_allclose(served, Embedder(folders[place])(TEXTS), atol=1e-5)
    other = live.post("/v1/embeddings", json={"model": name, "input": TEXTS, "pooling": "mean"}).json()["data"]
    assert not np.allclose(served, [one["embedding"] for one in other], atol=1e-3)
    alone = live.post("/v1/embeddings", json={"model": name, "input": TEXTS[0]}).json()["data"][0]["embedding"]
    np.testing.assert_allclose(alone, served[0], atol=1e-6)


def test_an_encoder_is_told_apart_and_asked_for_nothing_else(live):
    cards = {card["id"]: card["kind"] for card in live.get("/v1/models").json()["data"]}
    assert cards == {"encoder": "embedding", "decoder": "chat"}
    for path, body in (("/v1/completions", {"prompt": "x"}), ("/v1/chat/completions", {
            "messages": [{"role": "user", "content": "x"}]})):
        said = live.post(path, json={"model": "encoder"} | body)
        assert said.status_code == 400 and "/v1/embeddings" in said.json()["error"]["message"]
    assert live.post("/tokenize", json={"model": "encoder", "prompt": TEXTS[0]}).json()["count"] == 4
    long = live.post("/v1/embeddings", json={"model": "encoder", "input": [5] * 41})
    assert long.status_code == 400 and long.json()["error"]["code"] == "context_length_exceeded"
    schemas = live.get("/openapi.json").json()["components"]["schemas"]
    models = {name: schemas[name]["properties"]["model"]["enum"] for name in ("CompletionRequest", "EmbeddingRequest")}
    assert models == {"CompletionRequest": ["decoder"], "EmbeddingRequest": ["encoder", "decoder"]}
    assert live.get("/health").json()["models"] == {"encoder": "ok", "decoder": "ok"}


def test_other_weights_are_served_once_they_are_there(folders):
    served = open_model("x", open_models(folders[:1], SETTING).table["encoder"].folder, SETTING)
    before = served.engine.embed([[5, 6, 7]])
    model, _ = reread(served, SETTING)
    model.embedding.weight.data.neg_()
    served.engine.load(model)
    assert not np.allclose(before, served.engine.embed([[5, 6, 7]]))
