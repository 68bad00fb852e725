"""The layers before the application, driven without a network: a request is a dict, a client a list of messages."""

import asyncio
import json
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bloomery.core.errors import ConfigError
from bloomery.serve.limits import guarded, hostname, printable, shallow
from bloomery.serve.settings import ServeSettings, is_loopback, read_keys

KEY, OTHER = "a-key-of-24-characters-0", "another-key-of-24-chars-"
KEYS = tuple(sha256(key.encode()).digest() for key in (KEY, OTHER))
LOCAL = {"host": "localhost:8000"}


class Answer:
    """What a client got back, as far as it came."""

    def __init__(self):
        self.status, self.headers, self.body, self.complete = 0, {}, b"", False

    async def take(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")
            self.complete = not message.get("more_body", False)

    @property
    def error(self) -> dict:
        return json.loads(self.body)["error"]


class Echo:
    """An application that says what reached it, and notices when it is cancelled."""

    def __init__(self, seconds: float = 0):
        self.seconds, self.bodies, self.cancelled = seconds, [], 0

    async def __call__(self, scope, receive, send):
        message = await receive()
        self.bodies.append(message["body"])
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"ALLOW")]})
        await send({"type": "http.response.body", "body": message["body"]})


def scope(method="POST", path="/v1/completions", headers=LOCAL, query=b"") -> dict:
    return {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query,
            "client": ("127.0.0.1", 4), "headers": [(k.encode(), v.encode()) for k, v in dict(headers).items()]}


async def asked(app, *chunks: bytes, leave_after: float | None = None, where: dict | None = None) -> Answer:
    """Send a request in chunks and read the answer; the client goes `leave_after` seconds after its last chunk."""
    answer, waiting = Answer(), list(chunks or [b""])

    async def receive():
        if waiting:
            body = waiting.pop(0)
            return {"type": "http.request", "body": body, "more_body": bool(waiting)}
        await asyncio.sleep(1e9 if leave_after is None else leave_after)
        return {"type": "http.disconnect"}

    await app(where or scope(), receive, answer.take)
    return answer


def ask(app, *chunks: bytes, settings: ServeSettings | None = None, keys=(), **options) -> Answer:
    return asyncio.run(asked(guarded(app, settings or ServeSettings(), keys), *chunks, **options))


def test_a_request_reaches_the_application_whole_and_its_answer_carries_the_labels():
    app = Echo()
    answer = ask(app, b"one ", b"two")
    assert app.bodies == [b"one two"] and answer.body == b"one two" and answer.complete
    assert answer.headers["x-request-id"].startswith("req_") and answer.headers["x-frame-options"] == "DENY"


def test_request_ids_differ_and_none_is_taken_from_the_client():
    sent = scope(headers={**LOCAL, "x-request-id": "mine\r\nforged"})
    ids = {ask(Echo(), where=dict(sent)).headers["x-request-id"] for _ in range(3)}
    assert len(ids) == 3 and not any("mine" in identity for identity in ids)


@pytest.mark.parametrize("chunks", [[b"x" * 11], [b"x" * 5] * 3, [b"x"] * 11])
def test_a_body_is_measured_while_it_comes(chunks):
    app = Echo()
    answer = ask(app, *chunks, settings=ServeSettings(body_limit=10))
    assert (answer.status, answer.error["code"], app.bodies) == (413, "body_too_large", [])
    assert ask(Echo(), b"x" * 10, settings=ServeSettings(body_limit=10)).status == 200


@pytest.mark.parametrize(("stated", "status"), [("10", 200), ("11", 413), ("9" * 30, 413), ("-1", 413), ("1e3", 413)])
def test_a_stated_length_over_the_limit_is_refused_without_reading(stated, status):
    sent = scope(headers={**LOCAL, "content-length": stated})
    assert ask(Echo(), b"x" * 10, settings=ServeSettings(body_limit=10), where=sent).status == status


def test_a_body_that_never_ends_is_given_up():
    app = Echo()

    async def drip():
        answer = Answer()

        async def receive():
            await asyncio.sleep(0.02)
            return {"type": "http.request", "body": b"x", "more_body": True}

        await guarded(app, ServeSettings(body_seconds=0.1), ())(scope(), receive, answer.take)
        return answer

    answer = asyncio.run(drip())
    assert (answer.status, answer.error["code"], app.bodies) == (408, "body_too_slow", [])
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(("where", "status"), [
    (scope(headers={**LOCAL, **{f"x-{i}": "y" for i in range(64)}}), 431),
    (scope(headers={**LOCAL, "cookie": "y" * 17_000}), 431),
    (scope(query=b"q=" + b"y" * 17_000), 414),
    (scope(path="/" + "y" * 17_000), 414),
    (scope(headers={**LOCAL, **{f"x-{i}": "y" for i in range(60)}}), 200),
])
def test_a_large_head_is_refused(where, status):
    assert ask(Echo(), where=where).status == status


@pytest.mark.parametrize(("text", "fits"), [
    (b"[" * 16 + b"]" * 16, True), (b"[" * 17 + b"]" * 17, False), (b'{"a":' * 17, False), (b"[]" * 100, True),
    (b'"' + b"[" * 100 + b'"', True), (b'["\\"' + b"[" * 100 + b'"]', True), (b'"\\\\"' + b"[" * 17, False),
    (b"", True), (b'"' * 40 + b"[" * 16, True), (b'["' + b"[" * 100, True)])
def test_brackets_are_counted_outside_of_strings(text, fits):
    assert shallow(text, 16) is fits


@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner, max_size=3) |
                    st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=20), st.integers(0, 8))
def test_depth_equals_that_of_the_parsed_value(value, limit):
    def depth(part) -> int:
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else None
        return 0 if inner is None else 1 + max(map(depth, inner), default=0)

    assert shallow(json.dumps(value).encode(), limit) is (depth(value) <= limit)


@given(st.binary(max_size=200))
def test_any_bytes_have_a_depth(data):
    assert shallow(data, 1000) is True


def test_deep_json_is_refused_before_it_is_parsed():
    app = Echo()
    answer = ask(app, b"[" * 100_000)
    assert (answer.status, answer.error["code"], app.bodies) == (400, "json_too_deep", [])


@pytest.mark.parametrize(("host", "status"), [
    ("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:8000", 200), ("LOCALHOST.", 200), ("127.9.9.9:1", 200),
    ("evil.example", 403), ("localhost.evil.example", 403), ("127.0.0.1.nip.io", 403), ("", 403),
    ("evil.example@localhost", 403), ("localhost/evil", 403), ("[::1", 403), ("lab.example:80", 200)])
def test_a_loopback_server_answers_to_its_own_names_only(host, status):
    settings = ServeSettings(hosts=("lab.example",))
    assert ask(Echo(), settings=settings, where=scope(headers={"host": host})).status == status


def test_two_host_headers_are_none():
    sent = scope()
    sent["headers"] = [(b"host", b"localhost"), (b"host", b"evil.example")]
    assert ask(Echo(), where=sent).status == 403


def test_a_server_for_the_network_may_be_called_anything():
    assert ask(Echo(), settings=ServeSettings(host="0.0.0.0"), where=scope(headers={"host": "box.lan"})).status == 200
    assert hostname("Box.lan.:80") == "box.lan"


@pytest.mark.parametrize(("headers", "status"), [
    ({}, 200), ({"origin": "http://localhost:8000"}, 200), ({"sec-fetch-site": "same-origin"}, 200),
    ({"origin": "http://localhost:9999"}, 403), ({"origin": "https://evil.example"}, 403), ({"origin": "null"}, 403),
    ({"sec-fetch-site": "cross-site"}, 403), ({"sec-fetch-site": "same-site"}, 403),
    ({"origin": "https://lab.example", "sec-fetch-site": "cross-site"}, 200)])
def test_a_foreign_page_changes_nothing(headers, status):
    settings = ServeSettings(cors_origins=("https://lab.example",))
    answer = ask(Echo(), settings=settings, where=scope(headers={**LOCAL, **headers}))
    assert answer.status == status
    assert ask(Echo(), settings=settings, where=scope("GET", headers={**LOCAL, **headers})).status == 200


@pytest.mark.parametrize("given_key", [KEY, OTHER])
def test_any_of_several_keys_opens(given_key):
    sent = scope(headers={**LOCAL, "authorization": f"Bearer {given_key}"})
    assert ask(Echo(), keys=KEYS, where=sent).status == 200


@pytest.mark.parametrize("value", [None, "", "Bearer", "Bearer ", f"Basic {KEY}", f"Bearer {KEY}x",
                                   f"Bearer {KEY[:-1]}", KEY, "Bearer \u00e9"])
@pytest.mark.parametrize("path", ["/v1/models", "/metrics", "/tokenize", "/nothing", "/docs", "/static", "/health/",
                                  "/static/../v1/models", "/v1/chat/completions", "//health"])
def test_every_path_wants_a_key(path, value):
    app, headers = Echo(), LOCAL if value is None else {**LOCAL, "authorization": value}
    answer = ask(app, keys=KEYS, where=scope("GET", path, headers))
    assert (answer.status, answer.error["code"], app.bodies) == (401, "invalid_api_key", [])
    assert answer.headers["www-authenticate"] == "Bearer" and answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("path", ["/", "/health", "/static/app.js"])
def test_the_page_and_the_health_need_no_key(path):
    assert ask(Echo(), keys=KEYS, where=scope("GET", path)).status == 200


def test_keys_come_from_the_environment_or_a_file(monkeypatch, tmp_path):
    monkeypatch.delenv("BLOOMERY_KEYS", raising=False)
    assert read_keys(ServeSettings()) == () == read_keys(ServeSettings(host="0.0.0.0", no_auth=True))
    (tmp_path / "keys").write_text(f"{OTHER}\n\n{KEY}\n")
    assert set(read_keys(ServeSettings(keys_file=tmp_path / "keys"))) == set(KEYS)
    monkeypatch.setenv("BLOOMERY_KEYS", f"{KEY}, {OTHER}")
    assert read_keys(ServeSettings(host="0.0.0.0")) == KEYS


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "box.lan"])
def test_the_network_is_not_served_without_a_key(monkeypatch, host):
    monkeypatch.delenv("BLOOMERY_KEYS", raising=False)
    with pytest.raises(ConfigError, match="everyone"):
        read_keys(ServeSettings(host=host))


@pytest.mark.parametrize("text", ["", "short"])
def test_a_file_without_good_keys_is_refused(monkeypatch, tmp_path, text):
    monkeypatch.delenv("BLOOMERY_KEYS", raising=False)
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ConfigError):
        read_keys(ServeSettings(keys_file=tmp_path / "keys"))


@pytest.mark.parametrize("origin", ["*", "https://*.example", "lab.example", "https://lab.example/", "null"])
def test_origins_are_named_one_by_one(origin):
    with pytest.raises(ValueError, match="origin"):
        ServeSettings(cors_origins=(origin,))


def test_listed_origins_get_cors_without_credentials():
    settings, page = ServeSettings(cors_origins=("https://lab.example",)), {"origin": "https://lab.example"}
    preflight = scope("OPTIONS", headers={**LOCAL, **page, "access-control-request-method": "POST",
                                          "access-control-request-headers": "authorization"})
    answer = ask(Echo(), settings=settings, keys=KEYS, where=preflight)
    assert answer.status == 200 and answer.headers["access-control-allow-origin"] == "https://lab.example"
    assert "access-control-allow-credentials" not in answer.headers
    refused = ask(Echo(), settings=settings, keys=KEYS, where=scope(headers={**LOCAL, **page}))
    assert refused.status == 401 and refused.headers["access-control-allow-origin"] == "https://lab.example"
    elsewhere = ask(Echo(), where=scope("GET", headers={**LOCAL, **page}))
    assert "access-control-allow-origin" not in elsewhere.headers


def test_one_key_cannot_take_every_place():
    """Three at a time for one key, of which two are allowed; the other key and the health check still get in."""
    async def crowd():
        app = guarded(Echo(seconds=0.2), ServeSettings(per_key=2), KEYS)
        mine, theirs = ({**LOCAL, "authorization": f"Bearer {key}"} for key in (KEY, OTHER))
        where = [scope(headers=mine)] * 3 + [scope(headers=theirs), scope("GET", "/health")]
        together = await asyncio.gather(*(asked(app, where=dict(one)) for one in where))
        return together, await asked(app, where=scope(headers=mine))

    together, later = asyncio.run(crowd())
    assert [answer.status for answer in together] == [200, 200, 429, 200, 200] and later.status == 200
    assert together[2].headers["retry-after"] == "1" and "x-should-retry" not in together[2].headers


def test_a_full_server_says_so_and_asks_to_come_back():
    """Whoever asks, and for health too; a place is free again when an answer is done."""
    app = guarded(Echo(0.05), ServeSettings(connections=2), ())

    async def several():
        return await asyncio.gather(*(asked(app, where=scope("GET", "/health")) for _ in range(4)))

    answers = asyncio.run(several())
    assert sorted(answer.status for answer in answers) == [200, 200, 503, 503]
    refused = next(answer for answer in answers if answer.status == 503)
    assert refused.error["code"] == "server_full" and refused.error["type"] == "server_error"
    assert refused.headers["retry-after"] == "1" and refused.headers["x-request-id"].startswith("req_")
    assert "x-should-retry" not in refused.headers
    assert asyncio.run(asked(app)).status == 200


def test_a_client_that_leaves_cancels_the_work():
    app = Echo(seconds=1e9)
    answer = ask(app, b"{}", leave_after=0.05)
    assert app.cancelled == 1 and answer.status == 0


def test_a_client_that_leaves_while_sending_never_reaches_the_application():
    app = Echo()

    async def broken():
        messages = [{"type": "http.request", "body": b"x", "more_body": True}, {"type": "http.disconnect"}]

        async def receive():
            return messages.pop(0)

        await guarded(app, ServeSettings(), ())(scope(), receive, Answer().take)

    asyncio.run(broken())
    assert app.bodies == []


def test_work_after_the_last_byte_is_not_cancelled():
    """A server reports a finished answer as a client that left; what the application does then still ends."""
    tidied = []

    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})
        await asyncio.sleep(0.1)
        tidied.append(True)

    assert ask(app, leave_after=0.02).body == b"done" and tidied == [True]


def test_a_deadline_is_an_error_that_is_not_asked_again():
    app = Echo(seconds=30)
    answer = ask(app, settings=ServeSettings(deadline=0.05))
    assert (answer.status, answer.error["code"], app.cancelled) == (408, "deadline_exceeded", 1)
    assert answer.headers["x-should-retry"] == "false"


def test_a_deadline_ends_a_stream_in_its_own_words():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        while True:
            await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
            await asyncio.sleep(0.01)

    answer = ask(app, settings=ServeSettings(deadline=0.05))
    events = answer.body.decode().split("\n\n")
    assert answer.complete and events[-2:] == ["data: [DONE]", ""] and "deadline_exceeded" in events[-3]


def test_a_client_that_reads_nothing_is_given_up():
    async def app(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"x", "more_body": True})

    async def stuck():
        taken = []

        async def receive():
            await asyncio.sleep(0 if not taken else 1e9)
            return {"type": "http.request", "body": b""}

        async def send(message):
            taken.append(message["type"])
            await asyncio.sleep(0 if len(taken) < 5 else 1e9)

        await asyncio.wait_for(guarded(app, ServeSettings(reader_seconds=0.05), ())(scope(), receive, send), 20)
        return taken

    assert len(asyncio.run(stuck())) == 5


def test_a_failure_is_answered_and_logged_without_its_words(capsys):
    async def app(scope, receive, send):
        raise KeyError((await receive())["body"])

    answer = ask(app, b"what a person wrote")
    said = capsys.readouterr().err
    assert (answer.status, answer.error["type"]) == (500, "server_error") and "person" not in answer.body.decode()
    assert "KeyError" in said and "test_limits.py" in said and "person" not in said
    assert answer.headers["x-request-id"] in said and answer.headers["x-should-retry"] == "false"


def test_a_line_of_the_log_has_one_line(capsys):
    ask(Echo(), b"secret words", where=scope(path="/v1/\x1b[31m\r\nPOST /forged 200", query=b"q=secret"))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "\\x1b[31m\\r\\nPOST" in said and "\x1b" not in said and "secret" not in said
    ask(Echo(), settings=ServeSettings(access_log=False))
    assert capsys.readouterr().err == ""


@given(st.text())
def test_log_lines_are_printable_ascii(text):
    shown = printable(text)
    assert shown.isascii() and (shown.isprintable() or not shown) and len(shown) < 2100


@pytest.mark.parametrize(("host", "local"), [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True),
                                             ("localhost", True), ("0.0.0.0", False), ("::", False),
                                             ("10.0.0.1", False), ("localhost.lan", False), ("", False)])
def test_loopback_addresses(host, local):
    assert is_loopback(host) is local
