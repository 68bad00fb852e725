"""Recurrent sequence to sequence: an encoder reads the source, a decoder writes the target and looks back.

    h_j = [GRU(x_1..j) ; GRU(x_T..j)]                                       an LSTM likewise, one direction or both
    s_t = g(s_{t-1}, [y_{t-1} ; c_t]),   c_t = sum_j a_tj h_j,   a_t = softmax_j e(s_{t-1}, h_j)
    e = v . tanh(W s + U h)   bahdanau    Bahdanau et al. 2015, section 3 and appendix A
        s . h                 dot         Luong et al. 2015, section 3.1
        s . W h               general     likewise
    p(y_t) = softmax(E tanh(W [s_t ; c_t ; y_{t-1}]))

Without attention c is what the encoder ends with, at every step (Cho et al. 2014).  A batch is a forest, as for any
model: a source is a run without a parent, its targets continue it.  A step is of the rows that have not ended, and what
is padding among keys is hidden before the softmax.  States and gates are fp32 at least, products run in the compute
dtype.
"""

from collections.abc import Callable
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from bloomery.core.config import Settings
from bloomery.model.attention import Memory
from bloomery.model.forest import Segments, roots
from bloomery.model.linear import Linear
from bloomery.model.recurrence import GATES, Cell, Schedule, Steps
from bloomery.model.seq2seq import Split, dropped


class RNNConfig(Settings):
    """A recurrent encoder and decoder with attention between them."""

    head_softcap: ClassVar[None] = None                         # what every head is asked for
    head_transform: ClassVar[bool] = False

    vocabulary: int = Field(gt=0, description="rows of the embedding (V)")
    context: int = Field(512, gt=0, description="longest source or target")
    width: int = Field(256, gt=0, description="size of embeddings and of what the head reads (D)")
    hidden: int = Field(512, gt=0, description="size of a state; both directions of the encoder together")
    depth: int = Field(1, gt=0, description="layers of encoder and decoder")
    cell: Literal["gru", "lstm"] = Field("gru", description="Cho et al. 2014, or Hochreiter & Schmidhuber 1997")
    attention: Literal["bahdanau", "dot", "general", "none"] = Field(
        "bahdanau", description="how a state scores what the encoder read; none: its last state is all there is")
    bidirectional: bool = Field(True, description="the encoder reads both ways")
    dropout: float = Field(0.0, ge=0, lt=1, description="of embeddings, between layers and of the readout, in training")
    tied: bool = Field(True, description="the head is the embedding")
    start_id: int = Field(0, ge=0, description="the token every target begins with and never predicts")

    @model_validator(mode="after")
    def _consistent(self) -> "RNNConfig":
        if self.bidirectional and self.hidden % 2:
            raise ValueError(f"hidden ({self.hidden}) must be even: half of it is for each direction")
        return self

    @property
    def ways(self) -> int:
        """In how many directions the encoder reads."""
        return 2 if self.bidirectional else 1

    def recurrent(self) -> int:
        """Weights of all layers of encoder and decoder, attention among them."""
        h, gates, ways = self.hidden, GATES[self.cell], self.ways
        own = h // ways
        encoder = sum(ways * gates * own * ((h if layer else self.width) + own + 2) for layer in range(self.depth))
        decoder = sum(gates * h * ((h if layer else self.width + h) + h + 2) for layer in range(self.depth))
        scores = {"bahdanau": 2 * h * h + h, "general": h * h}.get(self.attention, 0)
        states = (2 if self.cell == "lstm" else 1) * self.depth * (h * h + h)
        return encoder + decoder + scores + states + (2 * h + self.width) * self.width + self.width

    def parameters(self) -> int:
        """Weights in all, tied embedding counted once."""
        return self.recurrent() + self.vocabulary * self.width + self.tables()

    def tables(self) -> int:
        """Weights that are only looked up."""
        return 0 if self.tied else self.vocabulary * self.width

    def flops_per_token(self) -> float:
        """6 a weight; a token goes through the encoder or the decoder, which are about as large."""
        return 3 * self.recurrent() + 3 * self.vocabulary * self.width

    def kept_per_token(self, compute: torch.dtype) -> dict[str, float]:
        """Bytes kept of a token and layer until the backward pass; nothing is computed again."""
        kept = 4.0 * (2 * GATES[self.cell] * self.hidden + 6 * self.hidden)
        return dict.fromkeys(("none", "selective", "full"), kept)


class Read(NamedTuple):
    """Encoded sources as padded rows, and the states their decoders begin with."""

    states: Tensor          # (S, T, H)
    keys: Tensor            # (S, T, H or A)  what scores are made with
    hidden: Tensor          # (S, T) bool: padding
    begin: tuple[Tensor, ...]               # each (L, S, H): s, and of an LSTM its cell
    summary: Tensor         # (S, H)  the context where there is no attention

    def of(self, rows: Tensor) -> "Read":
        """The sources of these rows."""
        return Read(self.states[rows], self.keys[rows], self.hidden[rows], tuple(x[:, rows] for x in self.begin),
                    self.summary[rows])

    def first(self, count: int) -> "Read":
        """Of the first rows, without a copy; states are not cut."""
        return self._replace(states=self.states[:count], keys=self.keys[:count], hidden=self.hidden[:count],
                             summary=self.summary[:count])


class Scores(nn.Module):
    """How a state scores what the encoder read, by name."""

    def __init__(self, kind: str, width: int):
        super().__init__()
        self.kind = kind
        if kind == "bahdanau":
            self.state, self.key = Linear(width, width), Linear(width, width)
            self.v = nn.Parameter(torch.zeros(width))
        elif kind == "general":
            self.key = Linear(width, width)

    def keys(self, states: Tensor, product: Callable[[Linear, Tensor], Tensor]) -> Tensor:
        """What of the states (S, T, H) does not depend on the query; `product` applies a layer."""
        if self.kind not in ("bahdanau", "general"):
            return states
        return product(self.key, states.flatten(0, 1)).view(states.shape)

    def forward(self, query: Tensor, keys: Tensor, used: "dict[Linear, Steps]") -> Tensor:
        """Scores (B, T) of queries (B, H) and keys (B, T, H)."""
        if self.kind == "bahdanau":
            return additive_scores(used[self.state](query), keys, self.v)
        return torch.bmm(keys, query[..., None])[..., 0]


def additive_scores(query: Tensor, keys: Tensor, v: Tensor) -> Tensor:
    """v . tanh(W s + U h), (B, T), from W s (B, A) and U h (B, T, A). Bahdanau et al. 2015, appendix A.1.2."""
    return (query[:, None] + keys).tanh() @ v


def attended(scores: Tensor, states: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Context (B, H) and weights (B, T); `hidden` (B, T) is padding, which weighs nothing."""
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    weights = scores.softmax(-1)
    return torch.bmm(weights[:, None], states)[:, 0], weights


class RNN(nn.Module):
    """ids (N,) of sources and targets -> hidden states (N, D) -> logits (N, V). Those of sources are 0."""

    def __init__(self, config: RNNConfig, *, seed: int | None = 0, compute: torch.dtype = torch.float32):
        super().__init__()
        self.config, c = config, config
        self.head = Linear(c.width, c.vocabulary)
        self.embedding = self.head if c.tied else Linear(c.width, c.vocabulary)
        self.encoder = nn.ModuleList(nn.ModuleList(
            Cell(c.cell, c.hidden if layer else c.width, c.hidden // c.ways) for _ in range(c.ways))
            for layer in range(c.depth))
        self.begin = nn.ModuleList(Linear(c.hidden, c.depth * c.hidden, bias=True)
                                   for _ in range(2 if c.cell == "lstm" else 1))
        self.scores = Scores(c.attention, c.hidden)
        self.cells = nn.ModuleList(Cell(c.cell, c.hidden if layer else c.width, c.hidden) for layer in range(c.depth))
        self.context = Linear(c.hidden, GATES[c.cell] * c.hidden)           # what is looked up, into the first cell
        self.readout = Linear(2 * c.hidden + c.width, c.width, bias=True)
        self.compute = compute
        if seed is not None:
            spread(self, seed)

    @property
    def blocks(self) -> nn.ModuleList:
        """The cells: what Muon takes its matrices from."""
        return nn.ModuleList([self.encoder, self.cells])

    def forward(self, ids: Tensor, positions: Tensor, memory: Memory) -> Tensor:
        """What the head reads, (N, D) in the compute dtype; `memory.segments` says which run is which."""
        split = Split(memory.segments)
        targets = split.is_target.to(ids.device)
        hidden = self.head.weight.new_zeros(len(ids), self.config.width, dtype=self.compute)
        if split.owner:
            read = self.read(ids[~targets], split.part(targets=False))
            hidden[targets] = self.write(ids[targets], split.part(targets=True), split.owner, read)[0]
        return hidden

    def product(self, layer: Linear, x: Tensor) -> Tensor:
        """A layer in the compute dtype; what recurrences read stays as wide as weights are."""
        return layer(x.to(self.compute)).to(layer.weight.dtype)

    def embedded(self, ids: Tensor) -> Tensor:
        """Tokens (N, D) of about unit variance, which a tied head must not have: hence times sqrt(D)."""
        return dropped(self.embedding.look_up(ids) * self.config.width ** 0.5, self.config.dropout, self)

    # --- the encoder ----------------------------------------------------------------------------------------------

    def read(self, ids: Tensor, segments: Segments) -> Read:
        """Sources (M,) as what a decoder looks back at."""
        start = segments.start.long()
        lengths = start.diff()
        x, ends = self.embedded(ids), (start[1:] - 1, start[:-1])
        for number, layer in enumerate(self.encoder):
            x = x if number == 0 else dropped(x, self.config.dropout, self)
            ways = [self.run(cell, x, Schedule(segments, backward=way == 1)) for way, cell in enumerate(layer)]
            x = torch.cat(ways, 1)                                                       # (M, H)
        summary = torch.cat([states[end.to(ids.device)] for states, end in zip(ways, ends)], 1)      # (S, H)
        place = torch.arange(int(lengths.max()))
        states = x[(start[:-1, None] + place).clamp(max=len(ids) - 1).to(ids.device)]    # (S, T, H)
        begin = tuple(self.product(layer, summary).tanh().unflatten(1, (self.config.depth, -1)).transpose(0, 1)
                      for layer in self.begin)
        return Read(states, self.scores.keys(states, self.product), (place >= lengths[:, None]).to(ids.device), begin,
                    summary)

    def run(self, cell: Cell, x: Tensor, schedule: Schedule) -> Tensor:
        """States (M, H / ways) of tokens x (M, ...) in the order of a schedule, beginning with none."""
        inputs = self.product(cell.input, x)[schedule.index].split(schedule.counts)
        past = tuple(x.new_zeros(schedule.counts[0], cell.state.in_features) for _ in range(cell.kept))
        layer, states = Steps(cell.state, self.compute), []
        for part in inputs:
            past = cell(part, tuple(each[:len(part)] for each in past), layer)
            states.append(past[0])
        return torch.cat(states)[schedule.back]

    # --- the decoder ----------------------------------------------------------------------------------------------

    def write(self, ids: Tensor, segments: Segments, owner: list[int], read: Read) -> tuple[Tensor, list[Tensor]]:
        """Targets (N,) read step by step: what the head reads (N, D), and each step's weights over the source, of the
        rows of a `Schedule`."""
        schedule = Schedule(segments)
        read = read.of(torch.tensor(owner)[schedule.order].to(ids.device))
        y = self.embedded(ids)                                                           # (N, D)
        inputs = self.product(self.cells[0].input, y)[schedule.index].split(schedule.counts)
        past = [tuple(x[layer] for x in read.begin) for layer in range(len(self.cells))]
        used, states, contexts, weights = self.used(), [], [], []
        for x in inputs:
            past = [tuple(part[:len(x)] for part in layer) for layer in past]
            past, context, weight = self.step(x, past, read.first(len(x)), used)
            states.append(past[-1][0])
            contexts.append(context)
            weights.append(weight)
        back = schedule.back
        return self.said(torch.cat(states)[back], torch.cat(contexts)[back], y), weights

    def used(self) -> dict[Linear, Steps]:
        """The layers that every step of the decoder uses."""
        layers = [self.context, *(cell.state for cell in self.cells), *(cell.input for cell in self.cells[1:])]
        return {layer: Steps(layer, self.compute) for layer in
                (layers + [self.scores.state] if self.config.attention == "bahdanau" else layers)}

    def step(self, x: Tensor, past: list[tuple[Tensor, ...]], read: Read,
             used: dict[Linear, Steps]) -> tuple[list[tuple[Tensor, ...]], Tensor, Tensor | None]:
        """One token of every row: the new states, the context (B, H) and its weights (B, T)."""
        if self.config.attention == "none":
            context, weights = read.summary, None
        else:
            context, weights = attended(self.scores(past[-1][0], read.keys, used), read.states, read.hidden)
        x, found = x + used[self.context](context), []
        for layer, cell in enumerate(self.cells):
            if layer:
                x = used[cell.input](dropped(found[-1][0], self.config.dropout, self))
            found.append(cell(x, past[layer], used[cell.state]))
        return found, context, weights

    def said(self, states: Tensor, contexts: Tensor, y: Tensor) -> Tensor:
        """What the head reads, (N, D)."""
        joined = torch.cat((states, contexts, y), -1).to(self.compute)
        return dropped(self.readout(joined).tanh(), self.config.dropout, self)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token, (N, V) in at least fp32."""
        scores = self.head(hidden)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def decoding(self, sources: list[list[int]], *, rows: int, tokens: int) -> "Decoding":
        """Targets of these sources, to be read step by step."""
        return Decoding(self, sources)


class Decoding:
    """Targets under way: every step feeds each row a token. Row i continues row `parents[i]` of the step before;
    the rows before the first step are the sources."""

    @torch.no_grad()
    def __init__(self, model: RNN, sources: list[list[int]]):
        self.model, self.device, self.used = model, model.head.weight.device, model.used()
        flat = torch.tensor([i for ids in sources for i in ids], device=self.device)
        self.sources = model.read(flat, roots([len(ids) for ids in sources], causal=False))
        self.owner = torch.arange(len(sources), device=self.device)
        self.past = [tuple(x[layer] for x in self.sources.begin) for layer in range(model.config.depth)]
        self.weights: Tensor | None = None                      # (B, T) of the last step

    @torch.no_grad()
    def step(self, parents: list[int], ids: list[int]) -> Tensor:
        """Logits (B, V) of what follows `ids`."""
        rows = torch.tensor(parents, device=self.device)
        self.owner = self.owner[rows]
        past = [tuple(part[rows] for part in layer) for layer in self.past]
        y = self.model.embedded(torch.tensor(ids, device=self.device))
        self.past, context, self.weights = self.model.step(
            self.model.product(self.model.cells[0].input, y), past, self.sources.of(self.owner), self.used)
        return self.model.logits(self.model.said(self.past[-1][0], context, y))


@torch.no_grad()
def spread(model: RNN, seed: int) -> None:
    """Draw every weight from `seed`, in the order of their names.

    Matrices are uniform with a variance of 1 / inputs, recurrent ones orthogonal gate by gate (Saxe et al. 2014), so
    that a state neither grows nor fades; biases are 0, but 1 for the forget gate (Jozefowicz et al. 2015).
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in sorted(model.named_parameters()):
        if name == "scores.v":
            weight.copy_((2 * torch.rand(weight.shape, generator=generator) - 1) * (3 / len(weight)) ** 0.5)
        elif weight.dim() == 1:
            weight.zero_()
            if model.config.cell == "lstm" and name.endswith("input.bias"):
                weight.view(4, -1)[1] = 1
        elif name.endswith("state.weight") and not name.startswith("scores"):
            for gate in weight.split(weight.shape[1]):
                gate.copy_(torch.linalg.qr(torch.randn(gate.shape, generator=generator))[0])
        else:
            weight.copy_((2 * torch.rand(weight.shape, generator=generator) - 1) * (3 / weight.shape[1]) ** 0.5)
