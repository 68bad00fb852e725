"""A server on this machine that speaks OpenAI's chat API as far as a client needs: what it says is a function."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Stub:
    """What was asked, what is answered, and failures that come first: (status, headers) each."""

    def __init__(self, say: Callable[[dict], dict], failures: list[tuple[int, dict]]):
        self.say, self.failures, self.bodies, self.keys, self.url = say, failures, [], [], ""


@contextmanager
def serving(say: Callable[[dict], dict], *failures: tuple[int, dict]) -> Iterator[Stub]:
    """`say` makes a choice out of a request's body."""
    stub = Stub(say, list(failures))

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def give(self, status: int, value: object, headers: dict) -> None:
            text = json.dumps(value).encode()
            self.send_response(status)
            for name, header in {**headers, "Content-Length": str(len(text))}.items():
                self.send_header(name, header)
            self.end_headers()
            self.wfile.write(text)

        def do_GET(self) -> None:
            self.give(200, {"data": [{"id": "stub-model"}]}, {})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            stub.keys.append(self.headers.get("Authorization"))
            if stub.failures:
                status, headers = stub.failures.pop(0)
                self.give(status, {"error": "not now"}, headers)
                return
            stub.bodies.append(body)
            self.give(200, {"choices": [stub.say(body)]}, {})

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


def text(said: str, finish: str = "stop") -> dict:
    return {"message": {"role": "assistant", "content": said}, "finish_reason": finish}


def letters(**logps: float) -> dict:
    """A choice of one word with the log-probabilities of the likeliest."""
    top = [{"token": token, "logprob": logp} for token, logp in logps.items()]
    return text(max(logps, key=logps.get)) | {"logprobs": {"content": [{"top_logprobs": top}]}}
