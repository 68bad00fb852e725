"""Twenty things a server of models must hold, one test or more for each, in the order in which they are usually listed.

What can be seen from outside is looked at from outside, on a live server with raw sockets where a client would be too
polite.
"""

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from live_server import comes

from bloomery.core.errors import BloomeryError, ConfigError, InputError
from bloomery.model.store import load_model
from bloomery.serve.limits import OPEN_PATHS
from bloomery.serve.models import open_model
from bloomery.serve.settings import ServeSettings
from bloomery.text.tokenizer import CONTROL, Tokenizer, load_tokenizer
from bloomery.train.team import open_store
from tests.miniature import bloomery

httpx = pytest.importorskip("httpx2", reason="httpx2, which comes with openai, is not installed")

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "bloomery"
KEY = "a-key-of-24-characters-0"
SECRET = "xyzzy-the-words-of-a-person"
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def web(server):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def raw(base_url: str, request: bytes, *more: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; the status and all that came back before the server was silent for a while."""
    host, port = base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as line:
        line.sendall(request)
        for part in more:
            line.sendall(part)
        line.settimeout(2)
        found = b""
        while b"\r\n\r\n" not in found or b"}" not in found.partition(b"\r\n\r\n")[2]:
            try:
                got = line.recv(65536)
            except TimeoutError:
                break
            if not got:
                break
            found += got
    return int(found.split()[1]), found


def listening(pid: int | str = "self") -> set[str]:
    """Addresses, as /proc writes them, that sockets of a process listen on."""
    links = (os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink())
    inodes = {found.group(1) for link in links if (found := re.match(r"socket:\[(\d+)\]", link))}
    tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [row.split() for table in tables for row in table.splitlines()[1:]]
    return {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


LOOPBACK = {"0100007F", "00000000000000000000000001000000"}
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


# --- 1 bind -------------------------------------------------------------------------------------------------------

def test_01_loopback_is_the_default_and_is_what_is_bound(server):
    assert ServeSettings().host == "127.0.0.1" and server.url.startswith("http://127.0.0.1:")
    if sys.platform == "linux":
        assert listening() and listening() <= LOOPBACK


def test_01_the_network_is_refused_without_a_key(monkeypatch, tmp_path):
    """Before any model is opened: there is none in this folder."""
    monkeypatch.delenv("BLOOMERY_KEYS", raising=False)
    done = bloomery("serve", tmp_path, "--host", "0.0.0.0", cwd=tmp_path)
    _, said = done.communicate(timeout=120)
    assert done.returncode == ConfigError.exit_code and "no key" in said and "--no-auth" in said


# --- 2 keys -------------------------------------------------------------------------------------------------------

def test_02_every_route_wants_a_key(serving, tmp_path):
    (tmp_path / "keys").write_text(KEY)
    with serving(keys_file=tmp_path / "keys") as live, httpx.Client(base_url=live.url) as client:
        routes = {(method, route.path) for route in live.app.routes
                  for method in getattr(route, "methods", None) or ["GET"]}
        assert {("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("GET", "/metrics")} <= routes
        for method, path in sorted(routes):
            opened = path in OPEN_PATHS or path.startswith("/static")
            got = client.request(method, re.sub(r"\{.*?\}", "x", path).replace("/static", "/static/x"))
            assert (got.status_code == 401) != opened, f"{method} {path}: {got.status_code}"
        assert client.get("/v1/models", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
        assert client.get("/openapi.json").status_code == 401 == client.get("/nothing").status_code


def test_02_keys_never_stand_on_a_command_line():
    source = (PACKAGE / "cli.py").read_text()
    assert not re.search(r'"--(api-)?key"', source) and "keys" not in ServeSettings.model_fields


def test_02_keys_are_compared_in_constant_time():
    source = (PACKAGE / "serve" / "limits.py").read_text()
    assert "compare_digest" in source and not re.search(r"digest\s*(==|in)\s", source)


# --- 3 bodies, 4 headers ------------------------------------------------------------------------------------------

def test_03_a_body_without_a_length_is_counted_while_it_comes(server):
    head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    part = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    status, body = raw(server.url, head, *[part] * 17)
    assert status == 413 and b"body_too_large" in body


def test_03_a_stated_length_is_enough_to_be_refused(server):
    status, _ = raw(server.url, b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2000000\r\n\r\n")
    assert status == 413


@pytest.mark.parametrize("headers", [b"".join(b"X-%d: y\r\n" % i for i in range(100)), b"X: " + b"y" * 17_000 + b"\r\n",
                                     b"Cookie: " + b"y" * 100_000 + b"\r\n"])
def test_04_headers_are_limited(server, headers):
    status, _ = raw(server.url, b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + headers + b"\r\n")
    assert status in (400, 431)


@pytest.mark.parametrize(("request_line", "status", "code"), [
    (b"NONSENSE\r\n\r\n", 400, "invalid_http"), (b"GET / HTTP/1.1\r\n\r\n", 400, "invalid_http"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "invalid_http"),
    (b"GET /" + b"x" * 40_000, 431, "headers_too_large")])
def test_04_bytes_that_are_no_request_are_told_so_in_the_one_shape(server, request_line, status, code):
    found, answer = raw(server.url, request_line)
    assert found == status and b"application/json" in answer and b"x-should-retry: false" in answer.lower()
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == code


def test_04_nonsense_after_a_request_ends_the_connection_and_nothing_else(server):
    status, _ = raw(server.url, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nNONSENSE\r\n\r\n")
    assert status in (200, 400) and httpx.get(f"{server.url}/health", timeout=60).status_code == 200


# --- 5 what a request holds ---------------------------------------------------------------------------------------

@pytest.mark.parametrize(("change", "param"), [
    ({"messages": HELLO * 1025}, "messages"), ({"messages": [{"role": "user", "content": "x" * 400_001}]}, "messages"),
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop"), ({"stop": "x" * 257}, "stop"), ({"n": 9}, "n"),
    ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"), ({"bad_words": ["x"] * 257}, "bad_words"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"), ({"max_tokens": 10**7}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"), ({"temperature": 1e308}, "temperature"), ({"seed": 2**70}, "seed")])
def test_05_limits_are_looked_at_before_anything_is_tokenised(web, monkeypatch, change, param):
    if param != "max_tokens":               # how much room is left is known only when the prompt is counted
        monkeypatch.setattr(Tokenizer, "encode", lambda self, text: pytest.fail("tokenised"))
    got = web.post("/v1/chat/completions", json={"model": "tiny", "messages": HELLO, **change})
    assert got.status_code == 400 and got.json()["error"]["param"].startswith(param), got.text


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 5000, b'{"model": NaN}', b"", b"null", b"[]", b"\xff\xfe{",
                                  b'{"model": "\\ud800"}', b'{"n": 1' + b"0" * 5000 + b"}", b'{"n": 1, "n": 2',
                                  b'{"messages": [{"role": "user", "content": "\\udc00"}]}'])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize",
                                  "/detokenize"])
def test_05_nonsense_is_a_400(web, path, body):
    got = web.post(path, content=body, headers={"content-type": "application/json"})
    assert got.status_code == 400 and got.json()["error"]["message"], got.text


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/embeddings"])
@pytest.mark.parametrize("prompt", [["x"] * 257, "x" * 400_001, ["x" * 200_001] * 2, [2**31], [10**6], [-1], [], [[]],
                                    [[1], []], [1, "a"], [1.5], [True]])
def test_05_prompts_are_limited(web, path, prompt):
    field = "prompt" if path == "/v1/completions" else "input"
    got = web.post(path, json={"model": "tiny", field: prompt})
    assert got.status_code == 400 and got.json()["error"]["param"].startswith(field), got.text


# --- 6 how many, and for how long ---------------------------------------------------------------------------------

def test_06_a_full_queue_asks_to_come_back(serving):
    with serving(slots=1, queue=1, pace=0.02) as live:
        ask = {"model": "tiny", "prompt": "x", "max_tokens": 200, "ignore_eos": True, "stream": True}
        with httpx.Client(base_url=live.url, timeout=60) as client, client.stream(
                "POST", "/v1/completions", json=ask) as first:
            lines = first.iter_lines()          # held: a generator that is dropped closes its stream
            next(lines)
            with client.stream("POST", "/v1/completions", json=ask) as second:
                refused = client.post("/v1/completions", json=ask)
                assert second.status_code == 200
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] and "x-should-retry" not in refused.headers


def test_06_a_request_has_a_deadline(serving):
    with serving(deadline=0.05, pace=0.02) as live, httpx.Client(base_url=live.url, timeout=60) as client:
        ask = {"model": "tiny", "prompt": "x", "max_tokens": 200, "ignore_eos": True}
        got = client.post("/v1/completions", json=ask)
        assert got.status_code == 408 and got.json()["error"]["code"] == "deadline_exceeded"
        assert got.headers["x-should-retry"] == "false"
        streamed = client.post("/v1/completions", json=ask | {"stream": True}).text
        assert "deadline_exceeded" in streamed and streamed.endswith("data: [DONE]\n\n")
        assert resting(live)


# --- 7 slow readers, 8 clients that leave -------------------------------------------------------------------------

def resting(live) -> bool:
    """Whether every slot of the server becomes free again."""
    return comes(lambda: not any(engine.busy for engine in live.models.engines.values()))


def test_07_a_reader_who_reads_nothing_loses_his_slots(serving):
    """Ten times what buffers hold is to be said: the answer rests, then it is given up, long before its end."""
    with serving(reader_events=4, reader_seconds=0.3, pace=0.001) as live:
        ask = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 200, "ignore_eos": True, "stream": True,
                          "logprobs": 20, "n": 8, "temperature": 1}).encode()
        host, port = live.url.removeprefix("http://").split(":")
        with socket.socket() as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            line.connect((host, int(port)))
            line.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                         b"Content-Length: %d\r\n\r\n" % len(ask) + ask)
            written = live.models.engines["tiny"].stats
            assert comes(lambda: written["generated_tokens"] > 0) and resting(live)
            assert written["generated_tokens"] < 8 * 200


@pytest.mark.parametrize("stream", [True, False])
def test_08_the_slots_of_a_client_that_leaves_are_free(serving, stream):
    with serving(pace=0.02) as live:
        ask = {"model": "tiny", "prompt": "x", "max_tokens": 200, "ignore_eos": True, "stream": stream, "n": 4}
        with httpx.Client(base_url=live.url, timeout=0.5) as client:
            if stream:
                with client.stream("POST", "/v1/completions", json=ask) as answer:
                    next(answer.iter_lines())
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post("/v1/completions", json=ask)
        assert resting(live)
        assert 0 < live.models.engines["tiny"].stats["generated_tokens"] < 4 * 200


# --- 9 weights, 10 templates, 11 control tokens, 12 paths ---------------------------------------------------------

@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.pkl"])
def test_09_pickles_are_refused_with_a_way_out(tiny_folder, tmp_path, name):
    for path in Path(tiny_folder).iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(InputError, match="no safetensors") as caught:
        load_model(tmp_path)
    assert name in caught.value.why and "convert" in caught.value.hint


def test_09_the_library_opens_no_pickle():
    """`torch.load`, `pickle` and their kin stand nowhere in the package."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
                [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {"pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"} & set(names), path
            assert not (isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load"), path


@pytest.mark.parametrize("field", ["chat_template", "chat_template_kwargs", "template"])
def test_10_no_template_comes_from_a_request(web, field):
    got = web.post("/v1/chat/completions", json={"model": "tiny", "messages": HELLO, field: "{% for i in range(9) %}"})
    assert got.status_code == 400 and got.json()["error"]["param"] == field


@pytest.mark.parametrize(("source", "why"), [
    ("{{ 1 / 0 }}", "ZeroDivisionError"), ("{% for i in range(10 ** 12) %}{% endfor %}", "OverflowError"),
    ("{{ cycler.__init__.__globals__.os.environ }}", "SecurityError"), ("{% include '/etc/passwd' %}", "TypeError")])
def test_10_a_folders_template_only_renders(tiny_folder, tmp_path, source, why):
    """It runs in a sandbox, at the start, and anything else it tries is an error before the first request."""
    shutil.copytree(tiny_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").write_text(source)
    with pytest.raises(InputError, match="chat template") as caught:
        open_model("x", tmp_path, ServeSettings(slots=1))
    assert why in caught.value.why


@pytest.mark.parametrize("name", CONTROL)
def test_11_typed_control_tokens_stay_text(web, tiny_folder, name):
    tokenizer, control = load_tokenizer(tiny_folder), set()
    control.update(tokenizer.backend.token_to_id(token) for token in CONTROL)

    def ids(content: str) -> list[int]:
        ask = {"model": "tiny", "messages": [{"role": "user", "content": content}]}
        return web.post("/tokenize", json=ask).json()["tokens"]

    plain, typed = ids("aside"), ids(f"a{name}{name}side")
    assert sum(i in control for i in plain) == sum(i in control for i in typed) > 0
    text = web.post("/tokenize", json={"model": "tiny", "prompt": name}).json()["tokens"]
    assert len(text) > 1 and not control & set(text)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc", "..", "%2e%2e", "a/../a", "\x00", "hf:org/name", ""])
def test_12_a_model_is_an_id_of_the_table(web, name):
    got = web.post("/v1/completions", json={"model": name, "prompt": "x"})
    assert got.status_code == 404 and got.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("path", ["/static/../settings.py", "/static/%2e%2e/settings.py", "/static//etc/passwd",
                                  "/static/..%2fsettings.py", "/v1/models/..%2f..%2fetc"])
def test_12_no_path_leads_out(server, path):
    status, body = raw(server.url, b"GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
    assert status in (400, 404) and b"ServeSettings" not in body and b"root:" not in body


def test_12_a_weight_file_cannot_lead_out(tiny_folder, tmp_path):
    for path in Path(tiny_folder).iterdir():
        (tmp_path / path.name).symlink_to(path)
    with pytest.raises(InputError, match="outside"):
        load_model(tmp_path)


# --- 13 CORS, 14 rebinding, 15 CSRF, 16 pages ---------------------------------------------------------------------

def test_13_other_origins_may_read_nothing(web):
    got = web.get("/v1/models", headers={"origin": "https://evil.example"})
    assert not [name for name in got.headers if name.startswith("access-control-")]
    asked = web.options("/v1/chat/completions", headers={"origin": "https://evil.example",
                                                         "access-control-request-method": "POST"})
    assert asked.status_code >= 400 and not [name for name in asked.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/static/index.html"])
def test_14_a_name_of_another_site_is_not_answered(web, path):
    got = web.get(path, headers={"host": "evil.example"})
    assert got.status_code == 403 and got.json()["error"]["code"] == "host_not_allowed"


@pytest.mark.parametrize("headers", [{"origin": "https://evil.example"}, {"origin": "null"},
                                     {"origin": "http://127.0.0.1:1"}, {"sec-fetch-site": "cross-site"}])
def test_15_a_page_of_another_origin_changes_nothing(web, headers):
    for path in ("/v1/chat/completions", "/v1/models/tiny/reload", "/tokenize"):
        got = web.post(path, content=b"{}", headers={**headers, "content-type": "text/plain"})
        assert got.status_code == 403 and got.json()["error"]["code"] == "origin_not_allowed"


@pytest.mark.parametrize("path", ["/", "/health", "/nothing", "/v1/models", "/metrics", "/static/nothing.js"])
def test_16_every_answer_is_protected(web, path):
    headers = web.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'self'")
    assert "unsafe" not in headers["content-security-policy"] and headers["x-content-type-options"] == "nosniff"


def test_16_pages_insert_text_never_markup():
    scripts = list((PACKAGE / "serve" / "chat").glob("*.js"))
    assert scripts
    for path in scripts:
        source = re.sub(r"//.*|/\*[\s\S]*?\*/", "", path.read_text(encoding="utf-8"))
        found = re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc",
                          source)
        assert not found, f"{path.name}: {found}"


# --- 17 logs, 18 failures -----------------------------------------------------------------------------------------

def test_17_nothing_a_person_wrote_is_logged(serving, capfd, monkeypatch):
    with serving(access_log=True) as live, httpx.Client(base_url=live.url, timeout=60) as client:
        ask = {"model": "tiny", "prompt": SECRET, "max_tokens": 3}
        client.post("/v1/completions", json=ask)
        client.post("/v1/completions", json=ask | {"stream": True, "user": SECRET})
        client.post("/v1/completions", json={SECRET: SECRET})
        client.post("/v1/completions", content=f'{{"prompt": "{SECRET}'.encode())
        client.get(f"/v1/models?{SECRET}", headers={"user-agent": SECRET, "x-request-id": SECRET})
        monkeypatch.setattr(Tokenizer, "encode", broken)
        assert client.post("/v1/completions", json=ask).status_code == 500
        client.get("/%1b[31mred%0d%0aforged")
    said = "".join(capfd.readouterr())
    assert "POST /v1/completions" in said and SECRET not in said and "\x1b[31mred" not in said
    assert "\\x1b[31mred\\r\\nforged" in said


def broken(*arguments):
    raise RuntimeError(f"cannot do {arguments[1:]}")


def test_18_a_failing_engine_fails_alone_and_says_so(serving, monkeypatch):
    """Two models; one engine breaks in the middle of an answer: its requests end, the other's do not."""
    with serving(pace=0.005) as live, httpx.Client(base_url=live.url, timeout=60) as client:
        first, second = "tiny", "base"
        assert client.get("/health").status_code == 200
        ask = {"model": first, "prompt": "x", "max_tokens": 100, "ignore_eos": True, "stream": True}
        with client.stream("POST", "/v1/completions", json=ask) as streamed:
            lines = streamed.iter_lines()
            next(lines)
            monkeypatch.setattr(live.models.engines[first], "step", lambda: broken(None, "anything"))
            rest = list(lines)
        assert rest[-2:] == ["data: [DONE]", ""] and '"error"' in rest[-4] or '"error"' in "".join(rest)
        health = client.get("/health")
        assert health.status_code == 503 and health.json()["status"] != "ok"
        failed = client.post("/v1/completions", json=ask | {"stream": False})
        assert failed.status_code in (500, 503) and failed.json()["error"]["message"]
        fine = client.post("/v1/completions", json={"model": second, "prompt": "x", "max_tokens": 3})
        assert fine.status_code == 200


def test_18_a_failure_before_the_engine_fails_one_request(serving, monkeypatch):
    with serving() as live, httpx.Client(base_url=live.url, timeout=60) as client:
        ask = {"model": "tiny", "prompt": "x", "max_tokens": 3}
        with monkeypatch.context() as patch:
            patch.setattr(Tokenizer, "encode", broken)
            failed = client.post("/v1/completions", json=ask)
        assert failed.status_code == 500 and failed.headers["x-should-retry"] == "false"
        assert failed.json()["error"]["type"] == "server_error" and "cannot do" not in failed.text
        assert client.post("/v1/completions", json=ask).status_code == 200 == client.get("/health").status_code


# --- 19 remote code, 20 torch.distributed -------------------------------------------------------------------------

def test_19_code_of_a_model_folder_is_never_run(tiny_folder, tmp_path):
    for path in Path(tiny_folder).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    mark = tmp_path / "ran"
    (tmp_path / "modeling_evil.py").write_text(f"open({str(mark)!r}, 'w')")
    (tmp_path / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_evil.Evil"}}))
    try:
        load_model(tmp_path)
    except BloomeryError as error:
        assert "auto_map" in str(error)
    assert not mark.exists()
    assert not [path for path in PACKAGE.rglob("*.py") if re.search(r"trust_remote_code\s*=\s*True", path.read_text())]


@linux
def test_20_the_store_of_a_training_listens_on_the_loopback(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    before = listening()
    store = open_store(0, 1, timedelta(seconds=10))
    store.set("a", "b")
    assert store.get("a") == b"b" and listening() - before <= LOOPBACK and listening() <= LOOPBACK


RANK = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path({tests!r})))
from test_security import listening
from bloomery.train.team import join
team = join(timeout=60)
sys.stdout.write(" ".join(sorted(listening())) + "\\n")
team.gather([0])
"""


@linux
@pytest.mark.slow
def test_20_ranks_of_one_machine_listen_on_the_loopback():
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    around = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    ranks = [subprocess.Popen([sys.executable, "-c", RANK.format(tests=str(Path(__file__).parent))], text=True,
                              stdout=subprocess.PIPE, env={**around, "RANK": str(rank)}) for rank in range(2)]
    said = [rank.communicate(timeout=120)[0].split() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0] and all(said) and set(sum(said, [])) <= LOOPBACK
