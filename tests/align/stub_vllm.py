"""A server on this machine that speaks vLLM's API as far as rollouts need: it draws with our engine."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from bloomery.generate.engine import Engine
from bloomery.generate.request import Completion, Request
from bloomery.generate.sampling import Sampling
from bloomery.model.store import load_model
from bloomery.text.tokenizer import load_tokenizer


class Stub:
    """What is served and what was asked; `spoil` changes an answer before it is given."""

    def __init__(self, folder: Path, *, development: bool = True):
        self.tokenizer, self.development = load_tokenizer(folder), development
        self.lock, self.bodies, self.paths, self.loaded, self.url = threading.Lock(), [], [], [], ""
        self.spoil = lambda choice: choice
        self.load(folder)

    def load(self, folder: Path) -> None:
        self.engine = Engine(load_model(folder), self.tokenizer, slots=8)

    def answer(self, path: str, body: dict) -> tuple[int, dict | None]:
        """Status and JSON; None is an empty body."""
        self.paths.append(path)
        if path == "/v1/completions":
            self.bodies.append(body)
            return 200, {"choices": [self.spoil(choice) for choice in self.choices(body)]}
        if path in ("/collective_rpc", "/reset_prefix_cache") and self.development:
            if path == "/collective_rpc":
                assert body["method"] == "reload_weights"
                self.loaded.append(body["kwargs"]["weights_path"])
                self.load(Path(self.loaded[-1]))
            return 200, None
        return 404, {"detail": "Not Found"}

    def choices(self, body: dict) -> list[dict]:
        how = Sampling(body["temperature"], max(body["top_k"], 0), body["top_p"])
        (found,) = self.engine.generate([Request(
            tuple(body["prompt"]), body["max_tokens"], how=how, n=body["n"], seed=body["seed"],
            ends=frozenset(body["stop_token_ids"]), stops=tuple(body["stop"]))])
        return [self.choice(i, one, body) for i, one in reversed(list(enumerate(found)))]     # in any order

    @staticmethod
    def choice(index: int, one: Completion, body: dict) -> dict:
        ids = [token.id for token in one.tokens]
        reason = one.matched or (ids[-1] if one.finish == "stop" else None)
        return {"index": index, "text": one.text, "finish_reason": one.finish, "stop_reason": reason, "token_ids": ids,
                "logprobs": {"token_logprobs": [token.logp for token in one.tokens]}}


@contextmanager
def serving(folder: Path, **options: bool) -> Iterator[Stub]:
    """Serve the model in `folder` until the block ends."""
    stub = Stub(folder, **options)

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def give(self, status: int, value: dict | None) -> None:
            text = b"" if value is None else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self) -> None:
            self.give(200, {"data": [{"id": "policy"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
            with stub.lock:
                self.give(*stub.answer(self.path, body))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stub.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
