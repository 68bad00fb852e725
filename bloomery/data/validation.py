"""Held-out text as batches: every token of every document predicted once, and bits per UTF-8 byte as the result."""

from collections.abc import Callable

import numpy as np
import torch

from bloomery.data.batch import Batch, Run, forest
from bloomery.data.shards import Shard
from bloomery.losses.token import bits_per_byte, perplexity

TOKENS = 8192           # tokens a batch


def document_runs(shard: Shard, index: int, context: int, stride: int | None = None) -> list[Run]:
    """One document as runs of at most `context` tokens; each sees an end-of-text or the last token before it.

    The end-of-text is read first and predicted last, so that all tokens of the document and its end are scored; without
    one there is nothing to predict the first token from.  With a `stride` runs overlap: each scores `stride` tokens and
    reads those before them as far as the context goes.
    """
    before = [] if shard.eos is None else [shard.eos]
    tokens = np.concatenate([before, shard.document(index)]).astype(np.int64)
    runs = []
    for first in range(0, len(tokens) - 1, stride or context):
        end = first + (stride or context)
        read = max(0, min(first, end - context))
        piece = tokens[read:end + 1].tolist()
        runs.append(Run(piece[:-1], piece[1:], [0.0] * (first - read) + [1.0] * (len(piece) - 1 - first + read)))
    return runs


def batches(runs: list[Run], tokens: int = TOKENS) -> list[Batch]:
    """Runs in order, cut into batches of about `tokens` tokens."""
    out: list[list[Run]] = [[]]
    for run in runs:
        if out[-1] and sum(len(r.ids) for r in out[-1]) + len(run.ids) > tokens:
            out.append([])
        out[-1].append(run)
    return [forest(group) for group in out if group]


def corpus_bits_per_byte(shard: Shard, score: Callable[[list[Batch]], tuple[float, float]], *, context: int,
                         limit: int | None = None, stride: int | None = None) -> dict[str, float]:
    """`val_loss` (nats a token), `val_perplexity` and `val_bpb` of the documents that hold the first `limit` tokens.

    Perplexity is of the whole corpus, never a mean over documents; bytes do not count the end-of-text, its nats do.
    Token files of other tools do not say how many bytes they stand for: no `val_bpb` then.
    """
    last = len(shard.ends) if limit is None else int(np.searchsorted(shard.ends, limit)) + 1
    chosen = range(min(last, len(shard.ends)))
    with torch.no_grad():
        nats, tokens = score(batches([run for i in chosen for run in document_runs(shard, i, context, stride)]))
    found = {"val_loss": nats / tokens, "val_perplexity": perplexity(nats, tokens)}
    known = {} if shard.bytes_ is None else {"val_bpb": bits_per_byte(nats, int(shard.bytes_[:len(chosen)].sum()))}
    return found | known


def domain_metrics(measured: dict[str, dict[str, float]], shares: dict[str, float]) -> dict[str, float]:
    """`val_loss` and `val_bpb`, means over domains by share of the training data; `val_loss/web` and so on of each.

    That mean loss is what training on the mixture minimises; `val_perplexity` is its exponential.
    """
    total = sum(shares[name] for name in measured)
    means = {metric: sum(shares[name] * values[metric] for name, values in measured.items()) / total
             for metric in ("val_loss", "val_bpb") if all(metric in values for values in measured.values())}
    return means | {"val_perplexity": perplexity(means["val_loss"], 1)} | {
        f"{metric}/{name}": value for name, values in measured.items() for metric, value in values.items()}
