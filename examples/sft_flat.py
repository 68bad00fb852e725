"""Supervised fine-tuning in one flat file, with the library's nouns and none of its verbs.

    python examples/sft_flat.py MODEL DATA OUT [steps=100 examples=32 lr=1e-3 lora=0 ...]

    loss = -sum_t w_t log p(x_t | x_<t) / sum_t w_t        w_t = 1 where the assistant speaks, its turn-end included

MODEL is a Hugging Face folder, DATA a file of conversations in any known format, OUT the folder that is written: the
model, or with `lora` (a rank) an adapter as PEFT's files.  Steps and numbers are those of `bloomery sft`, and a test
holds them to it; what is left out is all that lies around them: resuming, validation, several processes, trackers.
"""

import sys
from pathlib import Path

import torch

from bloomery.core.config import bare_value
from bloomery.core.files import Quarantine
from bloomery.core.metrics import say
from bloomery.data.batch import forest, sequence
from bloomery.data.formats import conversations
from bloomery.data.packing import best_fit_decreasing
from bloomery.data.stream import samples
from bloomery.losses.linear_ce import linear_cross_entropy
from bloomery.model.adapt import AdaptConfig, adapt, trained_weights
from bloomery.model.forest import Forest
from bloomery.model.peft_files import save_adapter
from bloomery.model.store import load_model, save_model
from bloomery.text.chat import fit, load_renderer
from bloomery.train.precision import choose, products
from bloomery.train.schedule import ScheduleConfig, rate


def main(model_folder: Path, data: str, out: Path, *, steps: int = 100, examples: int = 32, micro_tokens: int = 8192,
         lr: float = 1e-3, weight_decay: float | None = None, clip: float = 1.0, lora: int = 0, template: str = "auto",
         precision: str = "auto", seed: int = 0) -> list[float]:
    """Train, write `out`, and return the loss of every step."""
    torch.manual_seed(seed)

    # The model, and what of it learns. Weights are fp32; products are bfloat16 where this machine is fast at them.
    model = load_model(model_folder)
    model.compute = choose(precision, products(model.config, micro_tokens))[0]
    adapt(model, AdaptConfig(method="lora" if lora else "full", rank=lora or 16), seed=seed)
    weights = list(trained_weights(model).values())
    schedule = ScheduleConfig(lr=lr)
    decay = (0.0 if lora else 0.1) if weight_decay is None else weight_decay    # an adapter decays towards its base
    groups = [{"params": [w for w in weights if w.dim() > 1], "weight_decay": decay},           # vectors do not decay
              {"params": [w for w in weights if w.dim() <= 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(0.9, 0.95), fused=True)

    # The data: rendering knows who says each token, so the loss weights are made with the ids. Too long is dropped.
    renderer, quarantine = load_renderer(model_folder, template), Quarantine()
    found = conversations(data, quarantine)
    rendered = [fit(renderer.conversation(each.messages), model.config.context + 1, "drop") for each in found]
    runs = [sequence(each.ids, each.weights) for each in rendered if each and any(each.weights)]
    if not runs:
        raise SystemExit(f"error: {data}: nothing to train on in {len(found)} conversations")
    words, spoken = sum(len(run.ids) for run in runs), sum(sum(run.weights) for run in runs)
    say(f"{len(runs)} conversations, {spoken / words:.0%} of {words} tokens trained; "
        f"{len(found) - len(runs)} dropped, {len(quarantine)} rows unreadable")

    losses = []
    for step in range(steps):
        # Which conversations: a function of seed and step. Best-fit into micro-batches: flat tokens, no padding.
        chosen = [runs[i] for i in samples(step, examples, len(runs), seed)]
        lengths = [len(run.ids) for run in chosen]
        bins = best_fit_decreasing(lengths, max(micro_tokens, *lengths))
        batches = [forest([chosen[i] for i in group]) for group in bins]
        count = sum(batch.count for batch in batches)           # of the whole step, so that any split gives its numbers

        total = 0.0
        for batch in batches:
            hidden = model(batch.ids, batch.positions, Forest(batch.segments))                  # (N, D)
            rows = batch.weights.nonzero()[:, 0]                # only what is trained goes through the head
            loss, _ = linear_cross_entropy(hidden[rows], model.head.weight, batch.targets[rows], batch.weights[rows],
                                           shadow=model.head.compute_weight(hidden.dtype),
                                           softcap=model.config.head_softcap)
            (loss / count).backward()
            total += float(loss.detach())

        norm = float(torch.nn.utils.clip_grad_norm_(weights, clip))
        for group in optimizer.param_groups:
            group["lr"] = rate(schedule, step, steps)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.graph.increment_version(weights)         # fused kernels do not, and bfloat16 shadows rely on it
        losses.append(total / count)
        say(f"step {step + 1}/{steps}  loss {losses[-1]:.4f}  grad_norm {norm:.3f}  {sum(lengths)} tokens")

    if lora:
        save_adapter(model, out, base=str(model_folder))
    else:
        save_model(model, out, bos=renderer.tokenizer.bos, eos=sorted(renderer.ends))
    renderer.tokenizer.save(out, context=model.config.context, chat_template=renderer.template.jinja())
    return losses


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    given = (option.partition("=") for option in sys.argv[4:])
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), **{name: bare_value(text) for name, _, text in given})
