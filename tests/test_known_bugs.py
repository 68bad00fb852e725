"""Bugs that other trainers had, each made again from its report: here they do not happen."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing

from bloomery.core.errors import InputError
from bloomery.core.records import Message
from bloomery.data.batch import Batch, forest, sequence
from bloomery.data.likelihood import token_logps
from bloomery.model.adapt import AdaptConfig, adapt, merge, trained_weights
from bloomery.model.config import ModelConfig
from bloomery.model.presets import gpt2, llama
from bloomery.model.store import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer, fit, load_renderer
from bloomery.text.tokenizer import END_OF_TEXT, Tokenizer, train_tokenizer
from bloomery.train.loop import train_step
from bloomery.train.objective import causal_lm
from bloomery.train.optim import OptimizerConfig
from bloomery.train.state import Report, State, fresh

SHAPE = {"vocabulary": 320, "context": 64, "depth": 2, "width": 32, "heads": 4, "kv_heads": 2, "hidden": 64}
TALK = (Message("system", "be kind"), Message("user", "assistant: hello?"), Message("assistant", "hello, you"),
        Message("user", "again"), Message("assistant", "and again"))
UNMARKED = ("{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}")


@pytest.fixture
def tokenizer() -> Tokenizer:
    return train_tokenizer(["be kind hello you and again assistant user: system"], vocabulary=300)


def loud(config: ModelConfig) -> Transformer:
    """A model whose every weight matters to what it says."""
    model = Transformer(config, seed=3)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3 if weight.dim() > 1 else 1)
    return model


def runs_of(lengths: tuple[int, ...] = (12, 3, 30, 5), *, prompt: int = 2) -> list:
    """Sequences of random ids of which all after the prompt is trained."""
    draw = torch.Generator().manual_seed(1)
    return [sequence(torch.randint(320, (n,), generator=draw).tolist(), [i >= prompt for i in range(n)])
            for n in lengths]


def one_step(batches: list[Batch], model: Transformer | None = None) -> tuple[State, Report, list[torch.Tensor]]:
    """One step of plain descent; its state, its report, and the gradient that it followed."""
    model = model or loud(llama(**SHAPE))
    before = [p.detach().clone() for p in model.parameters()]
    state = fresh(model, OptimizerConfig(name="sgd", lr=1.0, momentum=0, weight_decay=0, schedule="constant", warmup=0,
                                         clip=None), steps=10)
    report = train_step(state, batches, causal_lm, None)
    return state, report, [a - b.detach() for a, b in zip(before, model.parameters(), strict=True)]


def unmarked(tokenizer: Tokenizer, folder: Path) -> Renderer:
    """The renderer of a folder whose template marks no generation and writes the first token itself."""
    tokenizer.save(folder, context=64, chat_template=UNMARKED)
    return load_renderer(folder)


# --- 1: what is trained -------------------------------------------------------------------------------------------

def test_marin_7237_a_stock_template_without_generation_tags_trains_what_the_assistant_says(tokenizer, tmp_path):
    """marin#7237: such templates gave masks of zeros, and nothing was learned."""
    rendered = unmarked(tokenizer, tmp_path).conversation(TALK)
    said = [i for i, on in zip(rendered.ids, rendered.trained, strict=True) if on]
    assert tokenizer.decode(said, keep_control=True).replace("\n", "") == "hello, you<|im_end|>and again<|im_end|>"


@pytest.mark.parametrize("name", ["chatml", "plain"])
def test_megatron_bridge_3359_what_the_user_says_is_never_trained(tokenizer, name):
    """Megatron-Bridge#3359: where no mask was found everything was trained; here the user even writes a header."""
    rendered = Renderer(tokenizer, name).conversation(TALK)
    heard = tokenizer.decode([i for i, on in zip(rendered.ids, rendered.trained, strict=True) if not on])
    assert "be kind" in heard and "hello?" in heard and "you" not in heard
    assert 0 < sum(rendered.trained) < len(rendered.ids) / 2


def test_trl_6548_an_example_in_which_nothing_is_trained_is_an_error_and_no_nan():
    """trl#6548: an empty completion made the loss 0 / 0."""
    with pytest.raises(ValueError, match="no target tokens"):
        forest([sequence([1, 2, 3], [False, False, False])])
    mixed = [*runs_of(), sequence([5, 6, 7], [False] * 3)]
    with_it, without = (one_step([forest(some)])[1].metrics["loss"] for some in (mixed, mixed[:-1]))
    assert with_it == pytest.approx(without, rel=1e-6)


def test_trl_5826_a_completion_that_truncation_would_cut_away_is_dropped(tokenizer):
    """trl#5826: completions that were cut away whole made the loss NaN."""
    rendered = Renderer(tokenizer).conversation((Message("user", "again " * 30), Message("assistant", "hello")))
    assert fit(rendered, 20, "keep_start") is None and fit(rendered, 20, "drop") is None
    assert any(fit(rendered, 20, "keep_end").trained)
    with pytest.raises(InputError, match="longer than 20"):
        fit(rendered, 20, "error")


def test_trl_6668_a_forward_pass_that_is_nan_is_no_loss_of_zero():
    """trl#6668: the loss was reported as 0.0 while the model gave NaN."""
    model = loud(llama(**SHAPE))
    with torch.no_grad():
        model.blocks[0].attention_norm.weight.fill_(float("nan"))
    before = model.head.weight.detach().clone()
    with pytest.raises(FloatingPointError):
        one_step([forest(runs_of())], model)
    assert torch.equal(model.head.weight, before)


# --- 2 and 5: where texts begin and end, and the same ids wherever they are made ---------------------------------

def test_alignment_handbook_127_the_end_is_trained_though_it_is_also_the_padding(tokenizer):
    """alignment-handbook#127: with pad = eos all ends were masked as padding, and models never stopped."""
    for template in ("plain", "chatml"):                        # plain ends a turn with the end of a text
        renderer = Renderer(tokenizer, template)
        rendered = renderer.conversation(TALK)
        batch = forest([sequence(rendered.ids, rendered.weights), sequence([5, 6], [True, True])])
        assert int(((batch.targets == renderer.end) & (batch.weights == 1)).sum()) == 2         # one for every answer


def test_openrlhf_393_a_template_that_writes_bos_gets_it_once(tokenizer, tmp_path):
    """OpenRLHF#393: the template wrote one and the tokenizer put another before it."""
    tokenizer.backend.post_processor = TemplateProcessing(single=f"{END_OF_TEXT} $A",
                                                          special_tokens=[(END_OF_TEXT, tokenizer.eos)])
    renderer = unmarked(tokenizer, tmp_path)
    for ids in (renderer.conversation(TALK).ids, renderer.prompt(TALK[:2])):
        assert ids[0] == tokenizer.eos and ids.count(tokenizer.eos) == 1


@pytest.mark.parametrize("name", ["chatml", "plain", "unmarked"])
def test_trl_6105_a_prompt_is_a_prefix_of_its_conversation(tokenizer, tmp_path, name):
    """trl#6105: tokenised apart, prompts were no prefixes, and masks were off by the difference."""
    renderer = unmarked(tokenizer, tmp_path) if name == "unmarked" else Renderer(tokenizer, name)
    for answer in ("hello", "  hello", "\nhello", ": again"):
        whole = renderer.conversation((*TALK[:2], Message("assistant", answer)))
        prompt, said = renderer.prompt(TALK[:2]), renderer.answer(answer)
        assert whole.ids[:len(prompt)] == prompt and whole.trained[:len(prompt)] == [False] * len(prompt)
        assert all(whole.trained[len(prompt):whole.ids.index(renderer.end, len(prompt)) + 1])
        if name != "unmarked" or answer == answer.strip():      # a template of somebody else's may keep white space
            assert whole.ids[len(prompt):][:len(said)] == said


# --- 7: packing, padding, positions -------------------------------------------------------------------------------

@pytest.mark.parametrize("family", [gpt2, llama])
def test_trl_6800_positions_begin_at_every_sequence_whatever_stands_beside_it(family, tmp_path):
    """trl#6800: left padding shifted learned positions, 34 nats of a GPT-2; here transformers reads each alone."""
    small = {"vocabulary": 320, "context": 64}
    config = llama(**SHAPE) if family is llama else gpt2(2, 128, 2).model_copy(update=small)
    model, runs = loud(config), runs_of()
    save_model(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        found = token_logps(model, forest(runs))[0]
        wanted = [theirs(torch.tensor([run.ids])).logits[0].log_softmax(-1)[i, target] for run in runs
                  for i, target in enumerate(run.targets) if run.weights[i]]
    torch.testing.assert_close(found, torch.stack(wanted), rtol=1e-4, atol=1e-4)


def test_axolotl_3796_what_is_packed_beside_a_sequence_does_not_reach_it():
    """axolotl#3796: packed examples attended to each other."""
    runs = runs_of()
    packed = one_step([forest(runs)])
    alone = one_step([forest([run]) for run in runs])
    assert packed[1].metrics["loss"] == pytest.approx(alone[1].metrics["loss"], rel=1e-5)
    for a, b in zip(packed[2], alone[2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    model, other = loud(llama(**SHAPE)), replace(runs[0], ids=runs[1].ids[:1] * len(runs[0].ids))
    with torch.no_grad():
        mine, beside = (token_logps(model, forest([first, runs[2]]))[0][-28:] for first in (runs[0], other))
    assert torch.equal(mine, beside)


# --- 8: accumulation ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("split", [(1, 3), (2, 2), (1, 1, 2), (1, 1, 1, 1)])
def test_transformers_34191_accumulation_gives_the_gradient_of_the_whole_batch(split):
    """transformers#34191: means of micro-batches were averaged, so that short answers weighed more than long ones."""
    runs, at, batches = runs_of(), 0, []
    for size in split:
        batches.append(forest(runs[at:at + size]))
        at += size
    whole, parts = one_step([forest(runs)]), one_step(batches)
    for a, b in zip(whole[2], parts[2], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-4, atol=1e-6)


def test_transformers_37766_the_reported_loss_does_not_grow_with_the_number_of_micro_batches():
    """transformers#37766: twice the accumulation, twice the loss."""
    runs = runs_of((9, 4, 17, 5, 9, 4, 17, 5))
    told = [one_step([forest(runs[at:at + size]) for at in range(0, 8, size)])[1] for size in (8, 4, 2, 1)]
    assert [each.metrics["loss"] for each in told] == pytest.approx([told[0].metrics["loss"]] * 4, rel=1e-5)
    assert [each.grad_norm for each in told] == pytest.approx([told[0].grad_norm] * 4, rel=1e-4)


# --- 10: merge and export -----------------------------------------------------------------------------------------

@pytest.mark.parametrize("tied", [True, False])
def test_transformers_45127_a_merged_model_is_the_same_after_it_is_saved(tied, tmp_path):
    """transformers#45127: merged models with tied embeddings collapsed once they were read again."""
    model = adapt(loud(llama(**SHAPE, tied=tied)), AdaptConfig(method="lora", rank=4), seed=1)
    with torch.no_grad():
        for weight in trained_weights(model).values():
            weight.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    save_model(merge(model), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is tied
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    batch = forest(runs_of((20,)))
    with torch.no_grad():
        mine, again = (token_logps(each, batch)[0] for each in (model, load_model(tmp_path)))
        logits = theirs(batch.ids[None]).logits[0].log_softmax(-1)
    hf = logits.gather(-1, batch.targets[:, None])[batch.weights > 0, 0]
    torch.testing.assert_close(again, mine, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(hf, mine, rtol=1e-4, atol=1e-4)


def test_llama_factory_10832_a_head_that_the_configuration_ties_away_is_refused(tmp_path):
    """LLaMA-Factory#10832: a head of its own was overwritten by the embedding without a word."""
    save_model(loud(llama(**SHAPE, tied=False)), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with pytest.raises(InputError, match="head is not the embedding"):
        load_model(tmp_path)
