"""The seq2seq stage: learn to write a target for a source, as in translation and summarisation.

    loss = - sum_t log p(y_t | y_<t, x)             Sutskever et al. 2014, eq. 1

From nothing, with a vocabulary learned from both sides, or from a model that reads sources.  What it then writes by
beam search is compared with the references by BLEU, chrF and ROUGE.  Scheduled sampling (Bengio et al. 2015) feeds some
of the network's own tokens in place of the target's, more and more of them: which ones is found by writing first,
without a gradient, and what is then learned is the loss above with those tokens read.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from bloomery.classic.overlap import bleu, chrf, rouge
from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Fixed, Free, Input
from bloomery.core.errors import ConfigError
from bloomery.core.files import Quarantine, write_jsonl
from bloomery.core.metrics import say
from bloomery.core.records import unit_hash
from bloomery.data.batch import Batch
from bloomery.data.parallel import Pair, Parallel, of_columns, of_lines, pair_batches, paired, pairs
from bloomery.data.stream import MicroBatches, Stream
from bloomery.generate.seq2seq import beamed, written
from bloomery.losses.token import perplexity
from bloomery.model.adapt import AdaptConfig, adapt, merge, trained_share
from bloomery.model.seq2seq_files import load_seq2seq, save_seq2seq
from bloomery.model.seq2seq_presets import Network, NetworkOptions, network
from bloomery.text.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from bloomery.train.objective import Metrics, causal_lm, total_nll
from bloomery.train.session import TrainingConfig, train

HELD_OUT = 0.02         # of the pairs, where no validation is given
SHOWN = 5               # of what was written, said at the end


class Config(TrainingConfig):
    """Train a network that writes a target for a source."""

    data: Input | None = Field(None, description="a file of rows with both texts; or give sources and targets")
    source_column: str = Field("source", description="column of data with the text to be read")
    target_column: str = Field("target", description="column of data with the text to be written")
    sources: Input | None = Field(None, description="a text file, one source a line")
    targets: Input | None = Field(None, description="a text file, one target a line")
    validation: Input | None = Field(None, description="held-out rows; default a fiftieth of the data, by hash")
    validation_sources: Input | None = Field(None, description="held-out sources, one a line")
    validation_targets: Input | None = Field(None, description="held-out targets, one a line")
    test: Input | None = Field(None, description="rows to write at the end; default the held-out ones")
    test_sources: Input | None = Field(None, description="sources to write at the end, one a line")
    test_targets: Input | None = Field(None, description="their targets")
    model: Annotated[Input | None, Fixed()] = Field(None, description="a folder to go on from; default a new network")
    network: Annotated[NetworkOptions, Fixed()] = NetworkOptions()
    tokenizer: Annotated[Input | None, Fixed()] = Field(None, description="a tokenizer's folder; default one learned "
                                                                          "from both sides")
    vocabulary: Annotated[int, Fixed()] = Field(8000, gt=0, description="tokens of the vocabulary that is learned")
    prefix: str = Field("", description="stands before every source, as T5's task prefixes do")
    examples: int = Field(64, gt=0, description="pairs a step, of similar length")
    micro_tokens: int = Field(8192, gt=0, description="tokens held in memory at once; any value gives the same step")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target that all tokens have in common")
    scheduled_sampling: float = Field(0.0, ge=0, le=1, description="share of tokens read that are the network's own at "
                                                                   "the last step; it grows from none")
    adapt: AdaptConfig = AdaptConfig()
    beams: int = Field(5, gt=0, description="beams of what is written at the end; 1 is greedy")
    length_penalty: float = Field(1.0, description="beams are judged by log p / length^this")
    max_tokens: int = Field(100, gt=0, description="longest target that is written")
    written: Annotated[int | None, Free()] = Field(None, gt=0, description="pairs written at the end; default all")


# --- what is read -------------------------------------------------------------------------------------------------

def texts(config: Config, part: str, quarantine: Quarantine) -> list[Parallel]:
    """The texts of one part, "" being what is trained on; none where nothing was given."""
    name = f"{part}_" if part else ""
    rows, sources, targets = (getattr(config, key) for key in (part or "data", f"{name}sources", f"{name}targets"))
    if bool(sources) != bool(targets) or (rows and sources):
        raise ConfigError("give rows, or two files that belong together", where=f"seq2seq.{name}sources",
                          why="there are both" if rows else "there is only one of the two files")
    if rows:
        return of_columns(rows, quarantine, source=config.source_column, target=config.target_column)
    return of_lines(sources, targets, quarantine) if sources else []


def parts(config: Config, quarantine: Quarantine) -> tuple[list[Parallel], list[Parallel], list[Parallel]]:
    """What is trained on, validated with at every so many steps, and written at the end."""
    training, validation, test = (texts(config, part, quarantine) for part in ("", "validation", "test"))
    if not training:
        raise ConfigError("there is nothing to train on", where="seq2seq.data",
                          hint="give data, or sources and targets")
    if not validation:
        held = [unit_hash(text.source, "seq2seq") < HELD_OUT for text in training]
        validation = [text for text, out in zip(training, held, strict=True) if out] or training[:1]
        training = [text for text, out in zip(training, held, strict=True) if not out] or training
    return training, validation, test or validation


# --- the network --------------------------------------------------------------------------------------------------

def opened(config: Config, training: list[Parallel]) -> tuple[Network, Tokenizer]:
    """The network to train, and its tokenizer."""
    if config.model:
        return load_seq2seq(Path(config.model)), load_tokenizer(Path(config.tokenizer or config.model))
    if config.tokenizer:
        tokenizer = load_tokenizer(Path(config.tokenizer))
    else:
        tokenizer = train_tokenizer((side for text in training for side in (text.source, text.target)),
                                    vocabulary=config.vocabulary)
    return network(config.network, vocabulary=tokenizer.size, start=tokenizer.begin, seed=config.seed), tokenizer


# --- scheduled sampling -------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class OwnBatch(Batch):
    """Pairs, and the share of tokens read that are to be the network's own."""

    own: float


def sampling(stream: Stream, share: float, steps: int) -> Stream:
    """Every batch told how many of its tokens are to be the network's own: a line from 0 to `share`."""
    def batches(step: int) -> MicroBatches:
        plain = stream(step)
        own = share * (step + 1) / steps
        return MicroBatches(lambda index: OwnBatch(**vars(plain[index]), own=own), plain.counts)

    return batches


def translation_loss(model: Network, batch: Batch, *, label_smoothing: float) -> tuple[torch.Tensor, Metrics]:
    """Teacher forcing, or with an `OwnBatch` scheduled sampling."""
    if isinstance(batch, OwnBatch):
        batch = replace(batch, ids=own_ids(model, batch))
    return causal_lm(model, batch, label_smoothing=label_smoothing)


@torch.no_grad()
def own_ids(model: Network, batch: OwnBatch) -> torch.Tensor:
    """The ids (N,) of a batch in which tokens read were replaced, by a coin for each, by what the network would draw
    there, given what was read before. Bengio et al. 2015, section 2.4."""
    runs, parents = batch.segments.runs, batch.segments.parent.tolist()
    targets = sorted((run for run, parent in enumerate(parents) if parent >= 0),
                     key=lambda run: runs[run][0] - runs[run][1])
    sources = [batch.ids[slice(*runs[parents[run]])].tolist() for run in targets]
    out, rows = batch.ids.clone(), [*range(len(targets))]
    longest = max(runs[run][1] - runs[run][0] for run in targets)
    under_way = model.decoding(sources, rows=len(targets), tokens=longest)
    for step in range(longest - 1):
        going = [row for row in rows if runs[targets[row]][1] - runs[targets[row]][0] > step + 1]
        places = torch.tensor([runs[targets[row]][0] + step for row in going], device=out.device)
        logits = under_way.step([rows.index(row) for row in going] if step else going, out[places].tolist())
        drawn = torch.multinomial(logits.softmax(-1), 1)[:, 0]
        coin = torch.rand(len(going), device=out.device) < batch.own
        out[places + 1] = torch.where(coin, drawn, out[places + 1])
        rows = going
    return out


# --- what is written ----------------------------------------------------------------------------------------------

def judged(model: Network, tokenizer: Tokenizer, asked: list[Pair], given: list[Parallel], config: Config,
           end: int) -> tuple[list[dict], dict]:
    """What the network writes, row by row, and how it compares with the references."""
    sources = [pair.source for pair in asked]
    if config.beams > 1:
        found = [best[0].ids for best in beamed(model, sources, ends={end}, max_tokens=config.max_tokens,
                                                beams=config.beams, length_penalty=config.length_penalty)]
    else:
        found = written(model, sources, ends={end}, max_tokens=config.max_tokens)
    texts_ = [tokenizer.decode(ids).strip() for ids in found]
    wanted = [given[pair.row].target for pair in asked]
    score, signature = bleu(texts_, [[one] for one in wanted])
    characters, chrf_signature = chrf(texts_, [[one] for one in wanted])
    overlaps = [rouge(text, one) for text, one in zip(texts_, wanted, strict=True)]
    rows = [{"source": given[pair.row].source, "target": one, "prediction": text}
            for pair, one, text in zip(asked, wanted, texts_, strict=True)]
    means = {name: sum(overlap[name].f1 for overlap in overlaps) / len(overlaps) for name in overlaps[0]}
    exact = sum(text == one.strip() for text, one in zip(texts_, wanted, strict=True)) / len(rows)
    return rows, {"exact_match": exact, "bleu": score, "bleu_signature": signature, "chrf": characters,
                  "chrf_signature": chrf_signature, **means, "written": len(rows)}


def validation(held_out: list[Pair], start: int, micro_tokens: int) -> Callable[[Network], Metrics]:
    """Loss and perplexity a token of held-out targets, read as they are."""
    batches = [*pair_batches(held_out, start, micro_tokens)]

    def validate(model: Network) -> Metrics:
        nats, tokens = total_nll(model, batches)
        return {"val_loss": nats / tokens, "val_perplexity": perplexity(nats, tokens)}

    return validate


def run(config: Config, out: Path) -> dict:
    """Train, export, write the test's targets into `predictions.jsonl` and judge them."""
    quarantine = Quarantine()
    training, held_out, test = parts(config, quarantine)
    quarantine.write(out)
    model, tokenizer = opened(config, training)
    if config.adapt.method not in ("full", "lora"):
        raise ConfigError(f"{config.adapt.method} does not adapt a network that reads sources", where="adapt.method",
                          hint="full, or lora")
    end, start = tokenizer.eos, model.config.start_id
    encoded = partial(pairs, tokenizer=tokenizer, end=end, longest=model.config.context, prefix=config.prefix)
    (trained, dropped), (validated, _), (asked, unwritten) = (
        encoded(part, where=name) for part, name in ((training, "data"), (held_out, "validation"), (test, "test")))
    say(f"  seq2seq: {len(trained)} pairs, {dropped} too long; {model.config.parameters() / 1e6:.1f} million weights, "
        f"{tokenizer.size} tokens")
    adapt(model, config.adapt, seed=config.seed)
    stream = paired(trained, start=start, examples=config.examples, micro_tokens=config.micro_tokens, seed=config.seed)
    if config.scheduled_sampling:
        stream = sampling(stream, config.scheduled_sampling, config.steps)
    state = train(model, config, out, name="seq2seq", stream=stream, epoch=config.examples / len(trained),
                  objective=partial(translation_loss, label_smoothing=config.label_smoothing),
                  validate=validation(validated, start, config.micro_tokens))
    share = trained_share(state.model)
    model = state.model if config.adapt.method == "full" else merge(state.model)
    save_seq2seq(model, out, eos=end)
    tokenizer.save(out, context=model.config.context, chat_template="")
    rows, scores = judged(model, tokenizer, asked[:config.written], test, config, end)
    write_jsonl(out / "predictions.jsonl", rows)
    write_atomic(out / "scores.json", json.dumps(scores, indent=1))
    for row in rows[:SHOWN]:
        say(f"  {row['source']}  ->  {row['prediction']}  ({row['target']})")
    say(f"  seq2seq: BLEU {scores['bleu']:.2f} ({scores['bleu_signature']}), chrF {scores['chrf']:.2f}")
    return {"pairs": len(trained), "dropped_pairs": dropped, "unwritten_pairs": unwritten,
            "quarantined": len(quarantine), "parameters": model.config.parameters(), "trained_share": share,
            "tokens": state.tokens, **state.best, **scores}
