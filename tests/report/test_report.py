"""The report stage without a browser: numbers, words, escaping, and runs that lack things."""

import json
import math
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_runs import HOSTILE, Run, lines

from bloomery.core.artifacts import file_hash
from bloomery.core.errors import BloomeryError, ConfigError, InputError
from bloomery.report import findings, samples
from bloomery.report import run as stage
from bloomery.report.charts import ema, read_log, thin, training_charts
from bloomery.report.graph import COLUMNS, Pass, graph, in_layers, in_order
from bloomery.report.run import Config, run


class Page(HTMLParser):
    """Tags that are open, the text of the page, and every address in it."""

    void = {"meta", "link", "br", "img", "input"}

    def __init__(self, text: str):
        super().__init__()
        self.open, self.text, self.addresses, self.tags = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [value for name, value in attributes if name in ("src", "href", "action")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)


def made(folders: list[str], out: Path, **options) -> tuple[Page, dict]:
    out.mkdir(exist_ok=True)
    metrics = run(Config(runs=folders, **options), out)
    assert metrics == {"bytes": (out / "report.html").stat().st_size, "pages": 1}
    return Page((out / "report.html").read_text(encoding="utf-8")), json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def whole(whole_run, tmp_path_factory) -> tuple[Page, dict]:
    return made(whole_run, tmp_path_factory.mktemp("report"), title="Iron & ore")


def test_page_is_well_formed_and_asks_for_nothing(whole):
    page, _ = whole
    assert page.open == []
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert page.tags.count("script") == 3                       # data, plotly.js, ours


def test_sentence_follows_the_numbers(whole):
    page, content = whole
    assert content["sentence"] == (
        "On text it has never seen the model needs 1.262 bits per byte, 21 % fewer than a 5-gram model and 33 % fewer "
        "than xz; fine-tuning cut the loss on expected answers by 52 % and preference training raised the share of "
        "answer pairs it ranks right from 61 % to 83 %.")
    assert [tile["value"] for tile in content["tiles"]] == ["1.262", "−51.8 %", "83 %"]
    assert [bar["share"] for bar in content["tiles"][2]["bars"]] == [0.611, 0.832]
    assert content["sentence"] in "".join(page.text).replace("\u00a0", " ")


def test_a_worse_model_is_called_worse():
    numbers = {"base.val_bpb": 2.0, "base.ngram5_bpb": 1.6, "base.xz_bpb": 2.0, "sft.answer_nll_base": 2.0,
               "sft.answer_nll": 2.5, "dpo.preference_accuracy": 0.4, "dpo.preference_accuracy_sft": 0.5}
    sentence, _ = findings.headline(numbers, None, 3, 10)
    assert "25 % more than a 5-gram model and about as many as xz" in sentence
    assert "raised the loss on expected answers by 25 %" in sentence
    assert "lowered the share" in sentence


def test_wins_are_told_with_their_interval():
    numbers = {"ppo.win_rate_over_sft": 0.63, "ppo.win_rate_over_sft_low": 0.58, "ppo.win_rate_over_sft_high": 0.68,
               "ppo.win_rate_over_sft_ties": 0.02, "dpo.win_rate_over_sft": 0.55}
    sentence, tiles = findings.headline(numbers, None, 3, 10)
    assert sentence == "Ppo's answers are preferred to sft's in 63 % of cases (58 to 68 %)."
    assert (tiles[0]["value"], tiles[0]["note"]) == ("63 %", "a coin gets 50 %; 95 % interval 58 to 68 %")


@pytest.mark.parametrize(("bits", "said", "warns"), [
    ([2.0, 1.9], "Nothing was forgotten: the text it was trained on before needs 1.900 bits per byte, 2.000 at the "
                 "start.", False),
    ([2.0, 5.0, 2.06], "Something was forgotten: the text it was trained on before needs 2.060 bits per byte, 2.000 at "
                       "the start (3 % more).", False),
    ([2.0, 3.0], "Something was forgotten: the text it was trained on before needs 3.000 bits per byte, 2.000 at the "
                 "start (50 % more).", True),
])
def test_what_was_forgotten_is_told(bits, said, warns):
    log = read_log([{"step": step, "base_bpb": value} for step, value in enumerate(bits)])
    assert findings.training_words(log) == [{"words": said, "warns": warns}]
    assert [c["title"] for c in training_charts(log, {"xz": 2.0})] == ["Text it was trained on before"]


def test_one_measurement_of_old_text_tells_nothing():
    assert findings.training_words(read_log([{"step": 0, "base_bpb": 2.0}])) == []


def test_the_cost_of_fine_tuning_is_told_where_it_was_evaluated():
    numbers = {"base.val_bpb": 2.0, "sft.val_bpb": 2.2, "sft.val_bpb_base": 2.0, "sft.answer_nll_base": 2.0,
               "sft.answer_nll": 1.5}
    sentence, _ = findings.headline(numbers, None, 3, 10)
    assert "by 25 %, held-out text then needs 10 % more bits" in sentence


def test_waterfall_adds_up(whole):
    _, content = whole
    (c,) = content["curation"]
    assert c["read"] - sum(bar["documents"] for bar in c["bars"]) == c["kept"]
    assert c["bytes_read"] - sum(bar["bytes"] for bar in c["bars"]) == c["bytes_kept"]
    assert c["bars"][0]["name"] == "quarantined" and c["bars"][0]["documents"] == 20
    assert c["bars"][-1] == {"name": "edited in place", "step": "toxicity", "documents": 0, "bytes": 800_000,
                             "tokens": 200_000, "of_left": 0, "of_all": 0,
                             "documents_left": c["kept"], "bytes_left": c["bytes_kept"]}


def test_curation_names_what_it_cannot_explain(new_run, tmp_path):
    url = {"step": "url", "reasons": {"blocked": {"documents": 2, "bytes": 20}}, "documents_left": 8, "bytes_left": 80}
    record = {"read": 10, "bytes_read": 100, "kept": 7, "bytes_kept": 70, "quarantined": 0, "steps": [url]}
    new_run.stage("curate", files=lambda out: (out / "curation.json").write_text(json.dumps(record)))
    _, content = made(new_run.folders, tmp_path)
    bars = [(bar["name"], bar["documents"], bar["of_left"]) for bar in content["curation"][0]["bars"]]
    assert bars == [("blocked", 2, 0.2), ("not explained", 1, 0.125)]


def test_text_from_data_is_escaped(whole):
    page, _ = whole
    assert "img" not in page.tags and "i" not in page.tags
    assert HOSTILE.replace("\x00", "") in "".join(page.text).replace("\x00", "").replace("\ufffd", "")


def test_data_block_cannot_end_its_script(new_run, tmp_path):
    new_run.stage("sft", files=lambda out: lines(out / "metrics.jsonl", [{"step": 1, "</script><b>": 1.0}]))
    page, content = made(new_run.folders, tmp_path)
    assert "</script><b>" in content["training"][0]["charts"][0]["title"]
    assert page.open == [] and page.tags.count("script") == 3


def test_order_and_graph_follow_parents(whole_run, tmp_path):
    _, content = made(list(reversed(whole_run)), tmp_path)
    names = [s["stage"] for s in content["stages"]]
    assert names == ["curate", "tokenizer", "instructions", "shards", "pretrain", "sft", "dpo", "evaluate", "reward",
                     "reviews", "reader"]
    layers, arrows = in_layers({s["id"]: s["reads"] for s in content["stages"]})
    assert [len(layer) for layer in layers] == [1, 2, 2, 2, 1, 1, 1, 1, 1, 1]
    assert len(arrows) == 11                                    # of 18 reads, 7 are implied by longer paths
    assert sum(isinstance(place, Pass) for layer in layers for place in layer) == 2


def test_long_graphs_are_broken_into_rows():
    parents = {"0": [], **{str(i): [str(i - 1)] for i in range(1, COLUMNS + 2)}}
    names = {node: {"name": node} for node in parents}
    across, down = (graph(names, parents, across=way) for way in (True, False))
    assert [box["name"] for box in across["boxes"] if box["y"] == 2] == list(parents)[:COLUMNS]
    assert across["width"] <= 1178
    assert all(box["y"] + across["box_height"] <= across["height"] for box in across["boxes"])
    assert {box["x"] for box in down["boxes"]} == {2} and len(across["arrows"]) == len(down["arrows"]) == COLUMNS + 1


def test_without_plotly_the_error_says_what_to_install(whole_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(BloomeryError) as error:
        run(Config(runs=whole_run), tmp_path)
    assert "pip install" in error.value.hint


def test_circle_is_an_error():
    with pytest.raises(InputError, match="circle"):
        in_order({"a": ["b"], "b": ["a"]})


def test_parents_left_out_are_drawn_and_a_folder_given_twice_counts_once(whole_run, tmp_path):
    page, content = made([whole_run[5], whole_run[5]], tmp_path)
    assert len(content["stages"]) == 1
    assert "".join(page.text).count("not in this report") == 2 * 2 * 2      # two parents, title and text, two graphs


def test_resume_is_marked_and_its_pause_is_not_work(whole):
    _, content = whole
    pretrain = content["training"][0]
    assert [mark["step"] for mark in pretrain["resumes"]] == [420]
    assert pretrain["charts"][0]["series"][0]["x"]["minutes"][-1] == pytest.approx(898 * 2.1 / 60, rel=1e-4)
    assert pretrain["charts"][1]["marks"] == {"5-gram model": 1.604, "xz": 1.873, "zstd": 1.911}
    assert content["training"][1]["charts"][1]["marks"] == {}               # answers are other text


def test_falling_chosen_answers_are_flagged(whole):
    _, content = whole
    dpo = content["training"][2]
    assert [said["warns"] for said in dpo["words"]] == [False, True, True]
    assert "less likely too" in dpo["words"][1]["words"] and dpo["words"][2]["words"].startswith("1 logged value is")
    rising = read_log([{"step": s, "rewards/margins": s, "logps/chosen": -9 + s} for s in range(5)])
    assert [said["warns"] for said in findings.training_words(rising)] == [False]


def test_tokens_are_counted_from_the_start_or_summed():
    total = read_log([{"step": s, "loss": 1.0, "num_tokens": 10 * s} for s in (1, 2, 3)])
    rows = read_log([{"step": s, "loss": 1.0, "num_tokens": n} for s, n in ((1, 10), (2, 9), (3, 11))])
    assert [place["tokens"] for place in total.places] == [10, 20, 30]
    assert [place["tokens"] for place in rows.places] == [10, 19, 30]


def test_ema_is_unbiased_at_the_start_and_keeps_gaps():
    assert ema([4.0, None, 4.0], 9) == [pytest.approx(4), None, pytest.approx(4)]
    assert ema([0.0, 3.0], 2) == [0.0, pytest.approx(3 * (2 / 3) / (8 / 9))]


def test_thinning_keeps_spikes_gaps_and_ends():
    values = [math.sin(i / 50) for i in range(50_000)]
    values[31_337], values[777] = 99.0, None
    kept = thin(values, 600)
    assert {0, 777, 31_337, 49_999} <= set(kept) and kept == sorted(kept) and len(kept) < 610


def test_unknown_curves_are_drawn_too(whole):
    _, content = whole
    assert [c["title"] for c in content["training"][2]["charts"] if c["more"]] == ["logits/chosen"]


def test_known_charts_come_first():
    log = read_log([{"step": s, "odd": 1, "grad_norm": 2.0, "loss": 3.0, "text": "x", "flag": True} for s in range(3)])
    assert [c["title"] for c in training_charts(log, {})] == ["Loss", "Gradient norm", "odd"]


@pytest.mark.parametrize("rows", [
    [], [{"step": 1, "loss": 2.0}], [{"step": 1, "loss": float("nan")}, {"step": 2, "loss": float("inf")}],
    [{"step": 5, "event": "resumed"}], [{"loss": 1.0}], [{"step": 1, "event": "resumed"}, {"step": 2, "val_bpb": 1.0}],
])
def test_poor_series_do_not_break_the_page(rows, new_run, tmp_path):
    new_run.stage("pretrain", files=lambda out: lines(out / "metrics.jsonl", rows), loss=float("nan"))
    page, _ = made(new_run.folders, tmp_path)
    assert page.open == []
    assert "NaN" not in (tmp_path / "report.json").read_text()


def test_bare_stages_are_listed(new_run, tmp_path):
    new_run.stage("mystery", "transmute", gold=0.5, per_kind={"a": 0.25, "b": 1, "c": "?"}, note="a word", empty={})
    page, content = made(new_run.folders, tmp_path)
    assert content["sentence"].startswith("1 stage finished in") and content["training"] == []
    assert content["stages"][0]["metrics"] == {"gold": 0.5, "per_kind.a": 0.25, "per_kind.b": 1, "per_kind.c": "?",
                                               "note": "a word", "empty": {}}
    assert [bar["share"] for bar in content["stages"][0]["groups"][0]["bars"]] == [0.25, 1.0]
    assert "0.25" in page.text


def test_empty_curation(new_run, tmp_path):
    record = {"read": 0, "bytes_read": 0, "kept": 0, "bytes_kept": 0, "quarantined": 0, "steps": []}
    new_run.stage("curate", files=lambda out: (out / "curation.json").write_text(json.dumps(record)))
    assert made(new_run.folders, tmp_path)[1]["tiles"][0]["note"] == "nothing was read"


def test_lone_surrogates_are_written(new_run, tmp_path):
    new_run.stage("evaluate", files=lambda out: (out / "answers.json").write_text(
        json.dumps([{"prompt": "\ud800", "answers": {"base": "\udfff"}}])))
    assert made(new_run.folders, tmp_path)[0].open == []


def test_prompts_may_be_messages():
    assert samples.plain([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]) == \
        "system: Be brief.\n\nuser: Hi"
    assert samples.plain("Hi") == samples.plain([{"role": "user", "content": "Hi"}]) == "Hi"


def test_texts_shrink_until_the_page_is_small_enough(whole_run, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "MOST_BYTES", 0)
    page, _ = made(whole_run, tmp_path)
    assert max(len(text) for text in page.text) < 1000 and any(text.endswith("more characters)") for text in page.text)


@pytest.mark.parametrize("name, content", [
    ("curation.json", "{"), ("answers.json", "[1,"), ("quarantine.jsonl", "{}\n{"), ("instructions.jsonl", "[]"),
    ("samples.json", "{")])
def test_damaged_files_are_named(name, content, new_run, tmp_path):
    new_run.stage("curate", files=lambda out: (out / name).write_text(content))
    with pytest.raises(InputError) as error:
        run(Config(runs=new_run.folders), tmp_path)
    assert name in error.value.where and error.value.hint


def test_nothing_to_report_on(tmp_path):
    with pytest.raises(ConfigError):
        run(Config(runs=[]), tmp_path)
    with pytest.raises(InputError, match="not a finished output"):
        run(Config(runs=[str(tmp_path)]), tmp_path)


def test_same_input_same_bytes_in_another_process(whole_run, tmp_path):
    made(whole_run, tmp_path)
    again = tmp_path / "again"
    again.mkdir()
    code = ("import sys; from pathlib import Path; from bloomery.report.run import Config, run; "
            "run(Config(runs=sys.argv[2:]), Path(sys.argv[1]))")
    subprocess.run([sys.executable, "-c", code, str(again), *whole_run], check=True,
                   cwd=Path(stage.__file__).parents[2], env={**os.environ, "PYTHONHASHSEED": "4242"})
    assert [file_hash(again / n) for n in ("report.html", "report.json")] == \
        [file_hash(tmp_path / n) for n in ("report.html", "report.json")]


def test_same_names_are_told_apart(tmp_path):
    first, second = Run(tmp_path / "a"), Run(tmp_path / "b")
    first.stage("sft", loss=1.0)
    second.stage("other")
    second.stage("sft", loss=2.0)
    _, content = made([first.folders[0], second.folders[1]], tmp_path)
    assert sorted(s["label"] for s in content["stages"]) == ["sft 00sf", "sft 01sf"]
