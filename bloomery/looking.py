"""`bloomery show MODEL --attention TEXT`: what every head looks at, as a page that opens anywhere.

A decoder or encoder: a map for each head, by layers.  A network that reads a source: the same for its encoder, its
decoder and the cross-attention between them, or the one alignment of a recurrent network, target down, source across
(Bahdanau et al. 2015, figure 3).  Weights are taken from the definition of attention, by looking up unit vectors.
"""

from dataclasses import dataclass
from html import escape
from pathlib import Path

import torch
from torch import Tensor

from bloomery.core.artifacts import write_atomic
from bloomery.core.errors import InputError
from bloomery.data.parallel import Pair, pair_batch
from bloomery.generate.seq2seq import beamed
from bloomery.model.attention import Memory
from bloomery.model.cross_attention import keys_values
from bloomery.model.dot_product import PLAIN, Scoring, attention
from bloomery.model.forest import DenseForest, roots
from bloomery.model.linear import Linear
from bloomery.model.rnn import RNN
from bloomery.model.seq2seq import EncoderDecoder
from bloomery.model.seq2seq_files import is_seq2seq, load_seq2seq
from bloomery.model.store import load_model
from bloomery.model.transformer import Transformer
from bloomery.text.tokenizer import Tokenizer, load_tokenizer

LONGEST = 64                    # tokens that can still be read on a page
BEAMS, MOST = 5, 64             # of a target that is not given
LEAST = 0.005                   # less weight is not drawn


@dataclass(frozen=True)
class Maps:
    """Weights of all heads of a stack, (L, H, T, S), and the tokens that look and are looked at."""

    title: str
    weights: Tensor
    down: list[str]
    across: list[str]


class Watched:
    """A memory that keeps the weights of every layer: what a query gets of unit vectors."""

    def __init__(self, memory: Memory, encoded: Tensor | None = None):
        self.memory, self.encoded = memory, encoded
        self.own: list[Tensor] = []
        self.crossed: list[Tensor] = []

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring = PLAIN) -> Tensor:
        units = torch.eye(len(k), dtype=v.dtype)[:, None].expand(-1, k.shape[1], -1)     # (N, K, N)
        self.own.append(self.memory.attend(layer, q, k, units, scoring).transpose(0, 1))
        return self.memory.attend(layer, q, k, v, scoring)

    def read(self, layer: int, q: Tensor, key_value: Linear, scoring: Scoring = PLAIN) -> Tensor:
        q, k, v = (x.transpose(0, 1) for x in (q, *keys_values(self.encoded, key_value, q.shape[-1])))
        units = torch.eye(k.shape[1], dtype=v.dtype).expand(len(k), -1, -1)              # (K, M, M)
        self.crossed.append(attention(q, k, units, None, scoring))
        return attention(q, k, v, None, scoring).transpose(0, 1)


@torch.no_grad()
def of_text(model: Transformer, ids: list[int], words: list[str]) -> list[Maps]:
    """Every head of a decoder or an encoder."""
    watched = Watched(DenseForest(roots([len(ids)], causal=model.config.causal)))
    model(torch.tensor(ids), torch.arange(len(ids)), watched)
    return [Maps("self-attention", torch.stack(watched.own), words, words)]


@torch.no_grad()
def of_pair(model: EncoderDecoder, source: list[int], target: list[int], read: list[str],
            wrote: list[str]) -> list[Maps]:
    """Every head of both stacks and between them. A row of a target is the token that is about to be written."""
    ids = torch.tensor([model.config.start_id, *target[:-1]])
    segments, own = roots([len(source)], causal=False), roots([len(target)])
    places = segments.positions
    inner = Watched(model.encoder.memory(segments) if model.encoder.relative else DenseForest(segments))
    encoded = model.encoder(model.embedded(torch.tensor(source), places), *model.turns(places), inner)
    outer = Watched(model.decoder.memory(own) if model.decoder.relative else DenseForest(own), encoded)
    model.decode(ids, own.positions, outer)
    before = ["", *wrote[:-1]]
    return [Maps("cross-attention", torch.stack(outer.crossed), wrote, read),
            Maps("encoder", torch.stack(inner.own), read, read),
            Maps("decoder", torch.stack(outer.own), before, before)]


@torch.no_grad()
def alignment(model: RNN, source: list[int], target: list[int], read: list[str], wrote: list[str]) -> list[Maps]:
    """Where a recurrent network looked while it wrote each token."""
    if model.config.attention == "none":
        raise InputError("a network without attention looks at nothing", hint="train one with network.attention")
    batch = pair_batch([Pair(source, target)], model.config.start_id)
    found = model.read(torch.tensor(source), roots([len(source)], causal=False))
    _, weights = model.write(batch.ids[len(source):], roots([len(target)]), [0], found)
    return [Maps("alignment", torch.stack(weights)[None, None, :, 0], wrote, read)]


def named(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.decode([id], keep_control=True) for id in ids]


def maps(folder: Path, text: str, target: str = "") -> list[Maps]:
    """What a model looks at while it reads a text, or writes a target for it: its own, unless one is given."""
    tokenizer = load_tokenizer(folder)
    if not is_seq2seq(folder):
        ids = checked(tokenizer.encode(text))
        return of_text(load_model(folder), ids, named(tokenizer, ids))
    model, end = load_seq2seq(folder), tokenizer.eos
    source = checked([*tokenizer.encode(text), end])
    wanted = tokenizer.encode(target) if target else \
        beamed(model, [source], ends={end}, max_tokens=MOST - 1, beams=BEAMS)[0][0].ids
    wanted = checked([*wanted, end])
    look = alignment if isinstance(model, RNN) else of_pair
    return look(model, source, wanted, named(tokenizer, source), named(tokenizer, wanted))


def checked(ids: list[int]) -> list[int]:
    if not 0 < len(ids) <= LONGEST:
        raise InputError("this text cannot be shown", why=f"it has {len(ids)} tokens, a page shows 1 to {LONGEST}")
    return ids


# --- the page -----------------------------------------------------------------------------------------------------

def picture(weights: Tensor, down: list[str], across: list[str], *, cell: int, words: bool) -> str:
    """One map (T, S) as SVG; the darker, the more weight. With `words` tokens stand beside it."""
    left, top = (7 * max(map(len, down)) + 8, 6 * max(map(len, across)) + 8) if words else (0, 0)
    wide, high = cell * len(across), cell * len(down)
    width, height = left + wide + top // 2, top + high                                   # labels lean to the right
    parts = [f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
             f'<rect class="ground" x="{left}" y="{top}" width="{wide}" height="{high}"/>']
    for i, row in enumerate(weights.tolist()):
        parts += [f'<rect x="{left + j * cell}" y="{top + i * cell}" width="{cell}" height="{cell}" fill-opacity='
                  f'"{share:.3f}"><title>{escape(down[i])} → {escape(across[j])}: {share:.2f}</title></rect>'
                  for j, share in enumerate(row) if share >= LEAST]
    if words:
        parts += [f'<text x="{left - 4}" y="{top + (i + 0.7) * cell}" text-anchor="end">{escape(word)}</text>'
                  for i, word in enumerate(down)]
        parts += [f'<text transform="translate({left + (j + 0.7) * cell} {top - 4}) rotate(-60)">{escape(word)}</text>'
                  for j, word in enumerate(across)]
    return "".join([*parts, "</svg>"])


def section(found: Maps) -> str:
    """All heads of a stack, a row a layer, and before them their mean with the tokens written beside it."""
    mean = picture(found.weights.mean((0, 1)), found.down, found.across, cell=18, words=True)
    body = [f"<h2>{escape(found.title)}</h2><figure>{mean}</figure>"]
    layers, heads = found.weights.shape[:2]
    if layers * heads > 1:
        cell = max(2, min(8, 120 // len(found.across)))
        body.append("<p>Above the mean of all heads; below every head, one layer a row.</p>")
        for layer in range(layers):
            row = [picture(head, found.down, found.across, cell=cell, words=False) for head in found.weights[layer]]
            body.append('<div class="layer">' + "".join(
                f"<figure>{each}<figcaption>{layer + 1}.{head}</figcaption></figure>"
                for head, each in enumerate(row, start=1)) + "</div>")
    return "".join(body)


def draw(folder: Path, text: str, out: Path, *, target: str = "") -> list[Maps]:
    """Write the page."""
    found = maps(folder, text, target)
    heading = escape(text) + (" → " + escape("".join(found[0].down[:-1]).strip()) if is_seq2seq(folder) else "")
    write_atomic(out, PAGE.format(heading=heading, body="".join(map(section, found))))
    return found


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Attention: {heading}</title>
<style>
:root {{ color-scheme: light dark; --ink: light-dark(#1b3a6b, #9cc2ff); --ground: light-dark(#f3f4f6, #22252b) }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem }}
h1 {{ font-size: 1.2rem; font-weight: 600 }} h2 {{ font-size: 1.05rem; margin-top: 2rem }}
svg {{ display: block; max-width: 100%; height: auto }} rect {{ fill: var(--ink) }} .ground {{ fill: var(--ground) }}
text {{ font-size: 12px; fill: currentColor; white-space: pre }}
.layer {{ display: flex; flex-wrap: wrap; gap: .6rem; margin: .4rem 0 }} figure {{ margin: 0 }}
figcaption {{ font-size: 11px; opacity: .7; text-align: center }}
</style><h1>{heading}</h1>{body}</html>
"""
