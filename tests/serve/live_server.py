"""A tiny model behind a real server on a free port of 127.0.0.1, and what its streams say."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import torch

from bloomery.model.config import ModelConfig
from bloomery.model.store import save_model
from bloomery.model.transformer import Transformer
from bloomery.serve.app import create_app
from bloomery.serve.limits import guarded
from bloomery.serve.models import Models
from bloomery.serve.run import listening, server
from bloomery.serve.settings import ServeSettings
from bloomery.text.chat import Renderer
from bloomery.text.tokenizer import train_tokenizer

CORPUS = ["The furnace turns ore into iron, and iron into tools. Where is the old green boat? It is at sea, in winter."]
SETTINGS = {"port": 0, "slots": 8, "dtype": "fp32", "chunk": 16, "access_log": False, "shutdown_seconds": 2}


def make_folder(folder: Path, *, chat: bool = True, seed: int = 0, context: int = 256, gain: float = 4,
                width: int = 24) -> Path:
    """A random model of one block whose likeliest token changes from step to step, with a tokenizer of 300 ids."""
    tokenizer = train_tokenizer(CORPUS, vocabulary=300)
    config = ModelConfig(vocabulary=tokenizer.size, context=context, depth=1, width=width, heads=4, kv_heads=2,
                         head_width=width // 4, hidden=32)
    model = Transformer(config, seed=seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(gain if weight.dim() > 1 else 1)
    ends = [tokenizer.turn_end, tokenizer.eos] if chat else [tokenizer.eos]
    save_model(model, folder, bos=tokenizer.eos, eos=ends)
    tokenizer.save(folder, context=context, chat_template=Renderer(tokenizer).template.jinja())
    return folder


@dataclass
class Running:
    """A live server: `url` is its root, `base_url` what OpenAI's clients want, `app` is FastAPI without the guards."""

    url: str
    app: object
    models: Models
    settings: ServeSettings

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def worker(self):
        return self.app.state.worker

    def post(self, path: str, body: object, **more) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60, **more)

    def get(self, path: str, **more) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **more)


@contextmanager
def running(models: Models, settings: ServeSettings, wrap: Callable = lambda app: app) -> Iterator[Running]:
    """Serve in a thread for as long as the block lasts. `wrap` stands between the application and its guards."""
    app = create_app(models, settings)
    place = listening(settings)
    one = server(guarded(wrap(app), settings), settings)
    thread = threading.Thread(target=one.run, kwargs={"sockets": [place]}, daemon=True)
    thread.start()
    while not one.started:
        assert thread.is_alive(), "the server did not start"
        time.sleep(0.01)
    try:
        yield Running(f"http://127.0.0.1:{place.getsockname()[1]}", app, models, settings)
    finally:
        one.should_exit = True
        thread.join(20)
        place.close()
        assert not thread.is_alive(), "the server did not stop"


def comes(condition: Callable[[], object], seconds: float = 120) -> bool:
    """Whether something becomes true within a time that only a broken server needs."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def sse(text: str) -> list[dict | str]:
    """The events of a stream: JSON values, and "[DONE]"; comments are left out."""
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in data]
