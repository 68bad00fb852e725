"""Task data become instructions: many wordings, splits kept apart, and a source for every row."""

import gzip
import json
import os
import zipfile
from pathlib import Path
from string import Formatter

import pytest
from pydantic import ValidationError

from bloomery.core.errors import InputError
from bloomery.core.files import Quarantine, write_jsonl
from bloomery.data.formats import conversations
from bloomery.instruct.converters import FIELDS, FORMATS, Config, named_split, run
from bloomery.instruct.paraphrases import STEPS, WORDINGS

DATA = Path(os.environ.get("BLOOMERY_DATA", Path(__file__).parents[3] / "shared" / "data")).absolute()
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no public texts in {DATA}: set BLOOMERY_DATA")

ROWS = {        # of each format: a row, and the answers that its wordings may give
    "squad": ({"id": "q1", "context": "Ada wrote it.", "question": "Who wrote it?",
               "answers": {"text": ["Ada", "Ada."], "answer_start": [0, 0]}}, {"Ada"}),
    "summarisation": ({"article": "A long story.", "highlights": "A story."}, {"A story."}),
    "nli": ({"premise": "It rains.", "hypothesis": "It is wet.", "label": 0}, {"entailment"}),
    "paraphrase": ({"sentence1": "He left.", "sentence2": "He went.", "label": "1"}, {"yes"}),
    "translation": ({"translation": {"en": "a dog", "de": "ein Hund"}}, {"ein Hund"}),
    "classification": ({"sentence": "I liked {it}.", "label": "positive"}, {"positive"}),
    "multiple_choice": ({"query": "Which floats?", "choices": ["lead", "cork"], "gold": 1}, {"B", "cork", "(B) cork"}),
    "reasoning": ({"question": "1 + 1 + 1?", "answer": "It is 2 + 1 = <<2+1=3>>3.\n#### 3"}, {"3"}),
}
MORE = {"translation": {"languages": ("English", "German"), "columns": {"en": "source", "de": "target"}}}


def convert(tmp_path: Path, kind: str, rows: list[dict], **options) -> tuple[dict, list[dict]]:
    write_jsonl(tmp_path / "rows.jsonl", rows)
    options = MORE.get(kind, {}) | options
    metrics = run(Config(format=kind, source=str(tmp_path / "rows.jsonl"), **options), tmp_path)
    return metrics, read(tmp_path / "instructions.jsonl")


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


# --- every format -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", ROWS)
def test_a_row_becomes_a_question_and_its_answer_in_every_wording(tmp_path, kind):
    row, answers = ROWS[kind]
    count = len(WORDINGS[kind])
    metrics, made = convert(tmp_path, kind, [row], wordings=count)
    assert metrics["examples"] == metrics["wordings"] == count
    assert {one["template"] for one in made} == {f"{kind}/{i}" for i in range(count)}
    assert {one["messages"][-1]["content"] for one in made} == answers
    assert len({one["id"] for one in made}) == len({one["messages"][0]["content"] for one in made}) == count
    for one in made:
        assert (one["task"], one["split"], one["source"]) == (kind, "train", "rows.jsonl:1")
        assert [turn["role"] for turn in one["messages"]] == ["user", "assistant"]


def test_every_format_is_tried_here_and_has_wordings():
    assert ROWS.keys() == FORMATS.keys() == FIELDS.keys() == WORDINGS.keys()


@pytest.mark.parametrize("kind", WORDINGS)
def test_wordings_differ_and_ask_for_what_is_needed(kind):
    asked = [prompt for prompt, _ in WORDINGS[kind]]
    assert len(set(asked)) == len(asked) >= 8
    braces = [{name for _, name, _, _ in Formatter().parse(prompt) if name} for prompt in asked]
    always = {"squad": {"context", "question"}, "summarisation": {"document"}, "translation": {"source", "to"},
              "nli": {"premise", "hypothesis", "options"}, "paraphrase": {"first", "second", "options"},
              "classification": {"text", "options"}, "multiple_choice": {"question"}, "reasoning": {"question"}}[kind]
    assert all(always <= found for found in braces)
    assert len(set(STEPS)) == len(STEPS) >= 6


def test_rows_are_read_back_with_their_reasoning_and_provenance(tmp_path):
    convert(tmp_path, "reasoning", [ROWS["reasoning"][0]])
    record, = conversations(str(tmp_path), Quarantine())
    assert record.messages[-1].content == "3" and record.messages[-1].thinking == "It is 2 + 1 = 3."
    assert (record.task, record.split, record.source) == ("reasoning", "train", "rows.jsonl:1")


def test_the_wording_follows_from_the_id_and_the_seed(tmp_path):
    rows = [{"id": i, "text": f"number {i}", "label": "odd" if i % 2 else "even"} for i in range(60)]
    first = convert(tmp_path, "classification", rows)[1]
    assert convert(tmp_path, "classification", rows)[1] == first
    assert [{**one, "source": None} for one in convert(tmp_path, "classification", rows[30:])[1]] == \
        [{**one, "source": None} for one in first[30:]]
    assert convert(tmp_path, "classification", rows, seed=1)[1] != first
    assert len({one["template"] for one in first}) == 10


# --- labels and choices -------------------------------------------------------------------------------------------

def test_labels_become_words_and_all_of_them_are_offered(tmp_path):
    rows = [{"text": "meh", "label": 0}, {"text": "yeah", "label": 1}]
    made = convert(tmp_path, "classification", rows, labels={"0": "negative", "1": "positive"})[1]
    assert [one["messages"][-1]["content"] for one in made] == ["negative", "positive"]
    assert all("negative or positive" in one["messages"][0]["content"] for one in made)
    with pytest.raises(InputError, match="labels are numbers"):
        convert(tmp_path, "classification", rows)
    with pytest.raises(InputError, match="too many labels"):
        convert(tmp_path, "classification", [{"text": "t", "label": f"one of its own {i}"} for i in range(101)])


def test_rows_without_a_gold_label_are_set_aside(tmp_path):
    rows = [{"premise": "p", "hypothesis": "h", "label": label} for label in (1, "contradiction", -1, "-", 7)]
    metrics, made = convert(tmp_path, "nli", rows)
    assert [one["messages"][-1]["content"] for one in made] == ["neutral", "contradiction"]
    assert (metrics["dropped/no gold label"], metrics["dropped/unknown label"], metrics["quarantined"]) == (2, 1, 3)
    assert len(read(tmp_path / "quarantine.jsonl")) == 3


@pytest.mark.parametrize(("choices", "answer", "right"), [
    (["a b", "c"], 1, "c"), (["a b", "c"], "0", "a b"), (["a b", "c"], "(B)", "c"), (["a b", "c"], "a b", "a b"),
    (["2", "1", "0"], "0", "0"), (["2", "1", "0"], 0, "2"), ({"text": ["x", "y"], "label": ["1", "2"]}, "2", "y")])
def test_the_right_choice_is_a_number_a_letter_a_label_or_a_text(tmp_path, choices, answer, right):
    row = {"question": "?", "choices": choices, "answer": answer}
    made = convert(tmp_path, "multiple_choice", [row], wordings=10)[1]
    assert right in {one["messages"][-1]["content"] for one in made}


@pytest.mark.parametrize(("choices", "answer"), [(["a", "b"], 2), (["a", "b"], "z"), (["a"], 0), ([1, 2], 0),
                                                 ("ab", 0)])
def test_choices_without_a_right_one_are_set_aside(tmp_path, choices, answer):
    good = {"question": "?", "choices": ["a", "b"], "answer": 0}
    metrics, made = convert(tmp_path, "multiple_choice", [good, {**good, "choices": choices, "answer": answer}])
    assert len(made) == 1 and metrics["quarantined"] == 1


def test_questions_without_answer_are_left_out_or_answered_as_told(tmp_path):
    rows = [ROWS["squad"][0], {**ROWS["squad"][0], "answers": {"text": [], "answer_start": []}}]
    assert convert(tmp_path, "squad", rows)[0]["dropped/no answer in the text"] == 1
    made = convert(tmp_path, "squad", rows, unanswerable="It does not say.")[1]
    assert [one["messages"][-1]["content"] for one in made] == ["Ada", "It does not say."]


# --- sources and splits -------------------------------------------------------------------------------------------

def test_splits_stay_apart(tmp_path):
    for name in ("train", "dev"):
        write_jsonl(tmp_path / f"{name}.jsonl", [{"text": name, "label": "a"}, {"text": f"{name}2", "label": "b"}])
    source = {"train": str(tmp_path / "train.jsonl"), "validation": str(tmp_path / "dev.jsonl")}
    metrics = run(Config(format="classification", source=source), tmp_path)
    assert (metrics["examples/train"], metrics["examples/validation"]) == (2, 2)
    training, held_out = read(tmp_path / "instructions.jsonl"), read(tmp_path / "instructions_validation.jsonl")
    assert {one["split"] for one in training} == {"train"} and {one["split"] for one in held_out} == {"validation"}
    assert not {one["id"] for one in training} & {one["id"] for one in held_out}
    assert all("dev" in one["messages"][0]["content"] for one in held_out)


@pytest.mark.parametrize(("name", "split"), [
    ("train.jsonl", "train"), ("dev-v1.1.json.gz", "validation"), ("test_2016.en.gz", "test"), ("latest.csv", "train"),
    ("x/val/rows.csv", "validation"), ("test_runs/rows.csv", "train"), ("test/train.csv", "train")])
def test_a_files_name_tells_its_split(name, split):
    assert named_split(name) == split


def test_a_column_tells_the_split(tmp_path):
    rows = [{"text": str(split), "label": "x", "split": split} for split in (None, "dev", "../odd")]
    convert(tmp_path, "classification", rows)
    for name in ("", "_validation", "__odd"):
        assert len(read(tmp_path / f"instructions{name}.jsonl")) == 1


def test_two_files_are_read_line_by_line(tmp_path):
    (tmp_path / "train.en").write_text("a dog\na cat\n", encoding="utf-8")
    with gzip.open(tmp_path / "train.de.gz", "wt", encoding="utf-8") as file:
        file.write("ein Hund\neine Katze\n")
    options = {"format": "translation", "languages": ("English", "German"), "source": str(tmp_path / "train.en")}
    run(Config(target=str(tmp_path / "train.de.gz"), **options), tmp_path)
    made = read(tmp_path / "instructions.jsonl")
    assert [one["messages"][-1]["content"] for one in made] == ["ein Hund", "eine Katze"]
    assert all("German" in one["messages"][0]["content"] for one in made)
    (tmp_path / "short.de").write_text("ein Hund\n", encoding="utf-8")
    with pytest.raises(InputError, match="different length"):
        run(Config(target=str(tmp_path / "short.de"), **options), tmp_path)
    with pytest.raises(InputError, match="without its translation"):
        run(Config(**{**options, "source": {"dev": str(tmp_path / "train.en")}},
                   target={"train": str(tmp_path / "short.de")}), tmp_path)


def test_tables_without_header_are_read_by_number_and_their_newlines_unfolded(tmp_path):
    (tmp_path / "train.tsv").write_text("What now?\\n- yes\tyes\tIt is so.\n", encoding="utf-8")
    run(Config(format="reasoning", source=str(tmp_path / "train.tsv"),
               columns={"1": "question", "2": "answer", "3": "rationale"}), tmp_path)
    record, = conversations(str(tmp_path), Quarantine())
    assert "What now?\n- yes" in record.messages[0].content
    assert (record.messages[1].content, record.messages[1].thinking) == ("yes", "It is so.")


def test_a_guideline_becomes_instructions(tmp_path):
    (tmp_path / "guide.md").write_text("# Tone\nKind words only.\n\nInput: Go away!\nOutput: rude\n", encoding="utf-8")
    metrics = run(Config(format="guideline", source=str(tmp_path / "guide.md"), task="tone"), tmp_path)
    made = read(tmp_path / "instructions.jsonl")
    assert metrics["examples"] == 2 and [one["source"] for one in made] == ["guide.md:1"] * 2
    assert sum("Kind words only." in one["messages"][0]["content"] for one in made) == 1
    with pytest.raises(InputError, match="Markdown"):
        run(Config(format="guideline", source=str(tmp_path)), tmp_path)


@pytest.mark.parametrize(("options", "said"), [
    ({"format": "translation"}, "needs to know between what"),
    ({"format": "nli", "target": "x"}, "target is an option of the format translation, not of nli"),
    ({"format": "squad", "labels": {"0": "no"}}, "nli, paraphrase or classification, not of squad"),
    ({"format": "nli", "prompts": "with"}, "guideline"), ({"format": "reasoning", "unanswerable": "?"}, "squad")])
def test_options_of_another_format_are_refused(options, said):
    with pytest.raises(ValidationError, match=said):
        Config(source="rows.jsonl", **options)


# --- what cannot be used ------------------------------------------------------------------------------------------

def test_training_rows_that_overlap_with_evaluation_data_are_left_out(tmp_path):
    leak = "the quick brown fox jumps over the lazy dog while seven wizards box with jars"
    write_jsonl(tmp_path / "test.jsonl", [{"anything": leak}])
    rows = [{"article": f"They say {leak}.", "summary": "s"}, {"article": "Another.", "summary": "s"},
            {"article": leak, "summary": "held out", "split": "test"}]
    metrics, made = convert(tmp_path, "summarisation", rows, evaluation=[str(tmp_path / "test.jsonl")])
    assert len(made) == 1 and metrics["dropped/overlaps with evaluation data"] == 1
    assert metrics["examples/test"] == 1


def test_columns_that_are_missing_are_named_with_what_there_is(tmp_path):
    with pytest.raises(InputError, match="no row can be converted") as error:
        convert(tmp_path, "nli", [{"text_a": "p", "text_b": "h", "label": 0}])
    assert "no column premise: the row has text_a, text_b, label" in error.value.why
    assert "premise or sentence1" in error.value.hint and "columns." in error.value.hint
    made = convert(tmp_path, "nli", [{"text_a": "p", "text_b": "h", "label": 0}],
                   columns={"text_a": "premise", "text_b": "hypothesis"})[1]
    assert len(made) == 1


def test_empty_and_wrong_fields_are_set_aside(tmp_path):
    rows = [{"article": "a", "summary": "s"}, {"article": " ", "summary": "s"}, {"article": ["a"], "summary": "s"}]
    metrics, made = convert(tmp_path, "summarisation", rows)
    assert len(made) == 1
    assert metrics["dropped/empty document"] == metrics["dropped/document is not a text"] == 1


# --- public data --------------------------------------------------------------------------------------------------

@needs_data
def test_squad_as_it_is_published(tmp_path):
    metrics = run(Config(format="squad", source=str(DATA / "squad" / "dev-v1.1.json.gz")), tmp_path)
    assert (metrics["examples/validation"], metrics["quarantined"], metrics["wordings"]) == (10570, 0, 10)
    for one in read(tmp_path / "instructions_validation.jsonl")[:500]:
        assert one["messages"][1]["content"] in one["messages"][0]["content"]


@needs_data
def test_gsm8k_as_it_is_published(tmp_path):
    gsm8k = DATA / "gsm8k"
    metrics = run(Config(format="reasoning", source=str(gsm8k / "train.jsonl.gz"),
                         evaluation=[str(gsm8k / "test.jsonl.gz")]), tmp_path)
    assert metrics["examples"] + metrics["dropped/overlaps with evaluation data"] == 7473
    assert 0 < metrics["dropped/overlaps with evaluation data"] < 20
    answers = [one["messages"][1] for one in read(tmp_path / "instructions.jsonl")]
    assert all("<<" not in answer["reasoning_content"] and "####" not in answer["content"] for answer in answers)


@needs_data
def test_sentence_tables_as_they_are_published(tmp_path):
    found = run(Config(format="paraphrase", source=str(DATA / "mrpc" / "msr_paraphrase_test.tsv.gz"),
                       columns={"1": "label", "4": "first", "5": "second"}), tmp_path)
    assert (found["examples/test"], found["dropped/unknown label"]) == (1725, 1)        # the header is no pair
    found = run(Config(format="classification", source=str(DATA / "sst2" / "dev.tsv.gz"),
                       columns={"1": "text", "2": "label"}, labels={"0": "negative", "1": "positive"}), tmp_path)
    assert (found["examples/validation"], found["quarantined"]) == (872, 0)
    with zipfile.ZipFile(DATA / "cola" / "cola_public.zip") as archive:
        (tmp_path / "dev.tsv").write_bytes(archive.read("cola_public/raw/in_domain_dev.tsv"))
    found = run(Config(format="classification", source=str(tmp_path / "dev.tsv"), columns={"4": "text", "2": "label"},
                       labels={"0": "unacceptable", "1": "acceptable"}, task="cola"), tmp_path)
    assert (found["examples/validation"], found["quarantined"]) == (527, 0)


@needs_data
def test_captions_as_they_are_published(tmp_path):
    english, german = (str(DATA / "multi30k" / f"val.{language}.gz") for language in ("en", "de"))
    found = run(Config(format="translation", source=english, target=german, languages=("English", "German")), tmp_path)
    assert (found["examples/validation"], found["quarantined"]) == (1014, 0)
