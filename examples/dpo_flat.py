"""Direct preference optimisation in one flat file, with the library's nouns and none of its verbs.

    python examples/dpo_flat.py MODEL DATA OUT [steps=100 pairs=32 beta=0.1 nll=0 lr=1e-4 ...]

    h    = log pi(y|x) - log pi_ref(y|x)                  of the chosen answer y_w and of the rejected one y_l
    loss = -log sigmoid(beta (h_w - h_l)) + nll * -log pi(y_w|x) / |y_w|                a mean over the pairs of a step

MODEL is a Hugging Face folder, DATA a file of preferences in any known format, OUT the folder that is written.  The
reference is the model as it comes.  A prompt is computed once for both answers.  Steps and numbers are those of
`bloomery dpo`, and a test holds them to it; what is left out is all that lies around them.
"""

import sys
from pathlib import Path

import torch
from torch.nn.functional import logsigmoid

from bloomery.core.config import bare_value
from bloomery.core.files import Quarantine
from bloomery.core.metrics import say
from bloomery.data.answers import AnswerBatch, answer_forest, tokens
from bloomery.data.formats import preferences
from bloomery.data.packing import best_fit_decreasing
from bloomery.data.stream import samples
from bloomery.losses.linear_ce import linear_logp
from bloomery.model.forest import Forest
from bloomery.model.store import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import load_renderer
from bloomery.train.precision import choose
from bloomery.train.schedule import ScheduleConfig, rate

Pair = tuple[list[int], list[list[int]]]        # a prompt and its two answers, the chosen one first


def answer_logps(model: Transformer, batch: AnswerBatch) -> torch.Tensor:
    """log pi(y|x) of every answer of a forest: the sum over its tokens, which alone go through the head."""
    hidden = model(batch.ids, batch.positions, Forest(batch.segments))                          # (N, D)
    rows = batch.weights.nonzero()[:, 0]
    logp = linear_logp(hidden[rows], model.head.weight, batch.targets[rows], softcap=model.config.head_softcap,
                       shadow=model.head.compute_weight(hidden.dtype))
    return logp.new_zeros(len(batch.lengths)).index_add(0, batch.answer[rows], logp)


def forests(pairs: list[Pair], micro_tokens: int) -> list[tuple[list[int], AnswerBatch]]:
    """Pairs best-fit into batches of about so many tokens: which pairs, and their forest of prompts and answers."""
    sizes = [tokens(*pair) for pair in pairs]
    bins = best_fit_decreasing(sizes, max(micro_tokens, *sizes))
    return [(chosen, answer_forest(*map(list, zip(*(pairs[i] for i in chosen), strict=True)))) for chosen in bins]


def main(model_folder: Path, data: str, out: Path, *, steps: int = 100, pairs: int = 32, micro_tokens: int = 8192,
         beta: float = 0.1, nll: float = 0.0, lr: float = 1e-4, weight_decay: float = 0.1, clip: float = 1.0,
         template: str = "auto", precision: str = "auto", seed: int = 0) -> list[float]:
    """Train, write `out`, and return the loss of every step."""
    torch.manual_seed(seed)
    model, renderer, quarantine = load_model(model_folder), load_renderer(model_folder, template), Quarantine()
    model.compute = choose(precision)[0]                        # weights are fp32, products perhaps bfloat16
    weights, schedule = list(model.parameters()), ScheduleConfig(lr=lr)
    groups = [{"params": [w for w in weights if w.dim() > 1], "weight_decay": weight_decay},    # vectors do not decay
              {"params": [w for w in weights if w.dim() <= 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)

    # The data: both answers end with the turn's end, which is learned with them. Too long or equal is dropped.
    found = preferences(data, quarantine)
    rendered = [(renderer.prompt(row.prompt), [renderer.answer(row.chosen), renderer.answer(row.rejected)])
                for row in found]
    kept = [(prompt, answers) for prompt, answers in rendered
            if answers[0] != answers[1] and len(prompt) + max(map(len, answers)) <= model.config.context]
    if not kept:
        raise SystemExit(f"error: {data}: nothing to learn in {len(found)} pairs")
    say(f"{len(kept)} pairs; {len(found) - len(kept)} dropped, {len(quarantine)} rows unreadable")

    # The reference, before anything is learned: one pass over all pairs.
    reference = torch.empty(len(kept), 2)
    with torch.no_grad():
        for chosen, batch in forests(kept, micro_tokens):
            reference[chosen] = answer_logps(model, batch).view(-1, 2)

    losses = []
    for step in range(steps):
        # Which pairs: a function of seed and step. What a step is divided by is theirs, however they are batched.
        mine = samples(step, pairs, len(kept), seed).tolist()
        total = margin = 0.0
        for chosen, batch in forests([kept[i] for i in mine], micro_tokens):
            logp = answer_logps(model, batch)                                                   # (2P,)
            h_w, h_l = (logp.view(-1, 2) - reference[[mine[i] for i in chosen]]).unbind(1)
            likely = (logp / batch.lengths)[0::2]
            loss = (-logsigmoid(beta * (h_w - h_l)) - nll * likely).sum()
            (loss / pairs).backward()
            total, margin = total + float(loss.detach()), margin + float(beta * (h_w - h_l).detach().sum())

        norm = float(torch.nn.utils.clip_grad_norm_(weights, clip))
        for group in optimizer.param_groups:
            group["lr"] = rate(schedule, step, steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.graph.increment_version(weights)         # fused kernels do not, and bfloat16 shadows rely on it
        losses.append(total / pairs)
        say(f"step {step + 1}/{steps}  loss {losses[-1]:.4f}  margin {margin / pairs:.3f}  grad_norm {norm:.3f}")

    save_model(model, out, bos=renderer.tokenizer.bos, eos=sorted(renderer.ends))
    renderer.tokenizer.save(out, context=model.config.context, chat_template=renderer.template.jinja())
    return losses


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    given = (option.partition("=") for option in sys.argv[4:])
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), **{name: bare_value(text) for name, _, text in given})
