"""Comparisons of generation: lengths, floors, gates, the GGUF a peer reads, and clients who do not wait."""

import asyncio
import json
import math
import statistics
import subprocess
import sys

import pytest
import torch

from benchmarks import best_of_n, generate, generation, llama_cpp, machine, serve, serving
from benchmarks.harness import PASSED, ROOT, Broken, Options
from bloomery.model.presets import sized

TINY = sized(1, vocabulary=300, context=64, width=32, heads=2, kv_heads=1, hidden=64)


def spec(folder, **more: object) -> dict:                                                # noqa: ANN001
    return {"folder": str(folder), "precision": "fp32", "prompts": [5, 9, 3], "new": [4, 1, 7], "rows": 2, "n": 1,
            "temperature": 0, "cache": "dynamic", "vocabulary": 300, "gate": True} | more


@pytest.fixture(scope="module")
def folder(tmp_path_factory):                                                            # noqa: ANN001, ANN201
    return generate.export(TINY, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def side(folder):                                                                        # noqa: ANN001, ANN201
    return lambda name, **more: generation.SIDES[name](spec(folder, **more))


def test_both_sides_read_the_same_prompts_and_end_where_they_were_told(side):
    ours, peer, grouped = (side("ours"), side("transformers"), side("transformers", grouped=True, cache="static"))
    assert ours["prompts"] == peer["prompts"] and [len(prompt) for prompt in ours["prompts"]] == [5, 9, 3]
    assert [len(one["ids"]) for each in ours["done"] for one in each] == [4, 1, 7]
    assert generate.same_tokens(ours["done"], peer["done"]) == PASSED
    assert generate.same_tokens(ours["done"], grouped["done"]) == PASSED
    assert ours["rate"] == pytest.approx(12 / ours["seconds"])


def test_weights_are_loud_enough_for_a_gate_that_can_fail(side):
    ids = [one["ids"] for each in side("transformers", prompts=[20] * 8, new=[20] * 8)["done"] for one in each]
    assert statistics.mean(len(set(each)) for each in ids) > 2


def test_the_gate_passes_and_says_how_close_both_sides_are(side, tmp_path):
    verdict, details = generate.gate(side, {"prompts": [5] * 40, "new": [8] * 40, "rows": 2}, tmp_path)
    assert verdict == PASSED and details["of"][1] == 8 * generate.GATED and details["clear ones"] >= generate.AGREE


def test_one_other_token_fails_the_gate():
    mine = [[{"ids": [1, 2, 3]}], [{"ids": [4]}]]
    assert generate.same_tokens(mine, [[{"ids": [1, 2, 3]}], [{"ids": [4]}]]) == PASSED
    assert generate.same_tokens(mine, [[{"ids": [1, 9, 3]}], [{"ids": [4]}]]) == \
        "failed: token 1 of request 0 is 2, the peer's 9"
    assert generate.close([-1.0], [-1.00005]) == PASSED and generate.close([-1.0], [-1.001]).startswith("failed")


def test_in_bf16_an_error_beyond_the_peers_fails_and_so_does_another_clear_choice():
    exact = {"logps": [-1.0] * 4, "choices": [1, 2, 3, 4], "leads": [1.0, 1.0, 1.0, 1e-4]}
    peer = {"logps": [-1.01] * 4}
    assert generate.agreement([1, 2, 3, 9], [-1.012] * 4, peer, exact)[0] == PASSED     # the last is no clear choice
    assert "nats away" in generate.agreement([1, 2, 3, 4], [-1.02] * 4, peer, exact)[0]
    assert generate.agreement([9, 2, 3, 4], [-1.0] * 4, peer, exact)[0] == \
        "failed: 66.7% of clear choices are those of fp32"


def test_samples_of_one_prompt_share_it_and_differ(side, tmp_path):
    said = side("ours", prompts=[12, 12], new=[6, 6], rows=1, n=4, temperature=1.0)
    assert best_of_n.distinct(said) == PASSED and said["completions"] == pytest.approx(8 / said["seconds"])
    peer = generate.judged(side, said, tmp_path)
    assert generate.close(generate.flat(said, "logps"), peer["logps"]) == PASSED
    same = {"done": [[{"ids": [1, 2]}, {"ids": [1, 2]}]]}
    assert best_of_n.distinct(same).startswith("failed")


def test_the_floor_is_what_padding_costs():
    work = {"prompts": [10, 30], "new": [5, 15], "rows": 2}
    ours, peer = generate.floors(TINY, work, flops=1.0, read=math.inf, grouped=False)
    whole = TINY.parameters()
    body = whole - TINY.vocabulary * TINY.width
    assert ours == 2 * (body * 40 + whole * 20) and peer == 2 * (body * 60 + whole * 30)
    ours, peer = generate.floors(TINY, work, flops=math.inf, read=1.0, grouped=False)
    assert (ours, peer) == (10 * 2 * whole, 15 * 2 * whole)          # weights are read once a step
    alone = {"prompts": [10, 30, 11, 29], "new": [5] * 4, "rows": 2}
    assert generate.floors(TINY, alone, 1.0, math.inf, grouped=True)[1] < \
        generate.floors(TINY, alone, 1.0, math.inf, grouped=False)[1]


def test_lengths_are_log_normal_with_the_mean_and_spread_asked_for():
    drawn = generate.lengths(20_000, mean=100, spread=0.8, least=1, most=100_000, seed=0)
    assert statistics.mean(drawn) == pytest.approx(100, rel=0.03)
    assert statistics.stdev(drawn) / statistics.mean(drawn) == pytest.approx(0.8, rel=0.05)
    assert max(generate.lengths(1000, mean=100, spread=0.8, least=9, most=120, seed=0)) == 120
    assert set(generate.works(quick=False)) == {"batch 1", "32 equal", "32 mixed", "batch 1, 124M"}


def test_bytes_a_second_are_those_of_the_weights_for_a_token():
    said = generate.moved([({"token": 0.5}, {"token": 1.0})], weights=int(10e9), copied=40e9)
    assert said["weights GB/s, ours and peer"] == [20.0, 10.0] and said["share of copy bandwidth"] == [0.5, 0.25]


def test_a_copy_moves_every_byte_twice():
    copied, read = machine.bandwidth(1 << 20, seconds=0.02)
    assert copied > 1e7 and 2 * copied <= read < 1e13


def test_requests_come_at_random_whatever_became_of_those_before():
    asked = serve.requests(4000, rate=50.0, vocabulary=300, mean=8, seed=1)
    gaps = [b["due"] - a["due"] for a, b in zip(asked, asked[1:])]
    assert asked[0]["due"] == 0 and statistics.mean(gaps) == pytest.approx(1 / 50, rel=0.06)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.1)  # exponential: mean and deviation are one
    assert asked == serve.requests(4000, rate=50.0, vocabulary=300, mean=8, seed=1)


def test_every_id_has_a_word_that_is_seen():
    tokenizer = serve.words(300)
    ids = [299, 3, 250]
    assert tokenizer.encode(tokenizer.decode(ids)) == ids and tokenizer.decode(ids) == "w299 w3 w250"


def test_percentiles_are_by_nearest_rank():
    assert serving.percentiles([float(i) for i in range(1, 101)]) == {"50": 50, "90": 90, "99": 99}
    assert serving.percentiles([3.0]) == {"50": 3.0, "90": 3.0, "99": 3.0} and serving.percentiles([])["50"] == 0


async def loaded(chunks: list[bytes], asked: list[dict], *, delay: float, status: str = "200 OK") -> list[dict]:
    """What clients see of a server that answers every request with these chunks, `delay` seconds apart."""
    bodies = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.lower().splitlines() if b"content-length" in line)
        bodies.append(json.loads(await reader.readexactly(length)))
        writer.write(f"HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for chunk in [*chunks, b""]:
            await asyncio.sleep(delay if chunk else 0)
            writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, serving.HOST, 0)
    async with server:
        _, seen = await serving.load(server.sockets[0].getsockname()[1], "m", "ours", asked)
    assert all(body["stream"] and body["temperature"] == 0 for body in bodies)
    return seen


STREAM = [b'data: {"choices": [{"text": "w5"}]}\n\ndata: {"choices": [{"te', b'xt": " w6 w7"}]}\n\n: ping\n\n',
          b'data: {"choices": [], "usage": {"completion_tokens": 3}}\n\ndata: [DONE]\n\n']
ASKED = [{"due": 0.0, "prompt": "w1", "new": 3}, {"due": 0.1, "prompt": "w2", "new": 3}]


def test_a_stream_is_read_whatever_its_chunks_and_timed_from_when_it_was_due():
    seen = asyncio.run(loaded(STREAM, ASKED, delay=0.02))
    assert [each["text"] for each in seen] == [["w5", "w6", "w7"]] * 2 and seen[0]["tokens"] == 3
    assert all(0.02 <= each["first"] < each["end"] for each in seen) and len(seen[0]["gaps"]) == 1
    assert seen[0]["between"] == pytest.approx(seen[0]["gaps"][0] / 2)
    assert seen[1]["end"] - seen[0]["end"] > 0.05                    # the second was not sent before it was due


def test_answers_that_are_cut_short_or_refused_are_no_measurement():
    with pytest.raises(RuntimeError, match="4 tokens were asked for and 3 came"):
        asyncio.run(loaded(STREAM, [ASKED[0] | {"new": 4}], delay=0))
    with pytest.raises(RuntimeError, match="503 busy"):
        asyncio.run(loaded([b"come back"], ASKED[:1], delay=0, status="503 busy"))
    with pytest.raises(RuntimeError, match="broke off"):
        asyncio.run(loaded([b'data: {"error": {"message": "x"}}\n\n'], ASKED[:1], delay=0))


def test_a_server_that_does_not_start_says_why(monkeypatch):
    monkeypatch.setitem(serving.COMMANDS, "ours", ("-c", "raise SystemExit('no such model {folder}')"))
    with pytest.raises(RuntimeError, match="no such model nowhere"):
        serving.Server("ours", "nowhere", "fp32", []).__enter__()


def test_the_faster_flags_are_taken_and_those_that_fail_are_not():
    rates = {(): 10.0, ("--continuous-batching",): 20.0}
    assert serve.faster(lambda *_, flags: {"rate": rates[tuple(flags)]}, []) == ["--continuous-batching"]

    def broken(*_: object, flags: list[str]) -> dict:
        if flags:
            raise Broken("out of blocks")
        return {"rate": 1.0}

    assert serve.faster(broken, []) == []


def test_without_the_peer_our_own_numbers_stand_alone():
    said = {"rate": 9.0, "first": 0.1, "between": 0.01} | dict.fromkeys(
        ("first percentiles", "between percentiles", "gaps"), {"50": 0.1, "90": 0.2, "99": 0.3})
    rows = list(serve.compare(8, [], lambda *_: said, "not run: No module named 'fastapi'", Options()))
    assert [row.name for row in rows] == [f"8 clients, {name}" for name in serve.METRICS]
    assert rows[0].ours == 9.0 and rows[0].ratio is None
    assert rows[1].details["first ms at 50, 90, 99 %"] == [100, 200, 300]
    assert serve.same_texts({"texts": [["a"]]}, lambda: {"texts": [["b"]]}).startswith("failed")


def test_llama_cpp_has_the_pairs_that_are_turned_side_by_side():
    rows = torch.arange(12)[:, None].expand(-1, 2)                   # two heads of 6: pairs (0, 3), (1, 4), (2, 5)
    assert llama_cpp.paired(rows, 2)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


@pytest.mark.parametrize("engine", generate.ENGINES)
def test_an_engine_that_is_not_installed_is_not_run(engine, folder, monkeypatch, tmp_path):
    rows = list(generate.another("x", engine, lambda *_, **__: {"not_run": f"No module named '{engine}'"}, None, {},
                                 tmp_path))
    assert [(row.gate, row.ratio) for row in rows] == [(f"not run: No module named '{engine}'", None)]
    monkeypatch.setitem(sys.modules, {"vllm": "vllm", "llama.cpp": "xllamacpp"}[engine], None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(ModuleNotFoundError):
        generation.SIDES[engine](spec(folder))


@pytest.mark.slow
@pytest.mark.parametrize(("case", "row"), [("generate", "4 mixed"), ("best-of-n", "completions"),
                                           ("serve", "8 clients, first token")])
def test_a_case_runs_as_a_program(case, row):
    done = subprocess.run([sys.executable, "-m", "benchmarks", case, "--quick", "--pairs", "1", "--busy", "--json",
                           "--threads", "1"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {each["name"]: each for each in json.loads(done.stdout.splitlines()[-1])["rows"]}
    assert rows[row]["ours"] > 0 and rows[row]["gate"].startswith((PASSED, "not run"))
