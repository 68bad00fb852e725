"""Group relative policy optimisation in one flat file, with the library's nouns and none of its verbs.

    python examples/grpo_flat.py MODEL DATA OUT [steps=100 prompts=8 samples=8 max_tokens=64 verifier=number ...]

    A_i  = (R_i - mean of its group) / (deviation of its group + 1e-4)                          R_i: right or wrong
    loss = - min(rho A, clip(rho, 1 - clip, 1 + clip) A) + beta (r - 1 - log r)      rho = pi / pi_old, r = pi_ref / pi

a mean over the answers of each one's mean over its tokens, once for each of `epochs`.  MODEL is a Hugging Face folder,
DATA a file of prompts with known answers, OUT the folder that is written.  A prompt is computed once for all of its
answers, when they are drawn and when they are learned from.  Steps and numbers are those of `bloomery grpo`, and a test
holds them to it; what is left out is all that lies around them.
"""

import sys
from pathlib import Path

import torch

from bloomery.align.rollout import draw_seed
from bloomery.align.verifiers import VERIFIERS
from bloomery.core.config import bare_value
from bloomery.core.files import Quarantine
from bloomery.core.metrics import say
from bloomery.data.answers import AnswerBatch, answer_forest
from bloomery.data.formats import problems
from bloomery.data.stream import samples as visited
from bloomery.generate.engine import Engine
from bloomery.generate.request import Request
from bloomery.generate.sampling import Sampling
from bloomery.losses.linear_ce import linear_logp
from bloomery.model.forest import Forest
from bloomery.model.store import load_model, save_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import load_renderer
from bloomery.train.precision import choose
from bloomery.train.schedule import ScheduleConfig, rate


def token_logps(model: Transformer, batch: AnswerBatch, temperature: float) -> torch.Tensor:
    """log pi of every answer token of a forest, (M,), under the distribution it was drawn from."""
    hidden = model(batch.ids, batch.positions, Forest(batch.segments))                          # (N, D)
    rows = batch.weights.nonzero()[:, 0]
    return linear_logp(hidden[rows] / temperature, model.head.weight, batch.targets[rows],
                       shadow=model.head.compute_weight(hidden.dtype))


def main(model_folder: Path, data: str, out: Path, *, steps: int = 100, prompts: int = 8, samples: int = 8,
         max_tokens: int = 64, epochs: int = 1, temperature: float = 1.0, verifier: str = "number", beta: float = 0.0,
         clip: float = 0.2, lr: float = 1e-5, max_norm: float = 1.0, template: str = "auto", precision: str = "auto",
         seed: int = 0) -> list[float]:
    """Train, write `out`, and return the mean reward of every step."""
    model, renderer, check = load_model(model_folder), load_renderer(model_folder, template), VERIFIERS[verifier]
    model.compute = choose(precision)[0]                        # weights are fp32, products perhaps bfloat16
    reference = load_model(model_folder, compute=model.compute) if beta else None
    weights, schedule = list(model.parameters()), ScheduleConfig(lr=lr)
    groups = [{"params": [w for w in weights if w.dim() > 1], "weight_decay": 0.1},             # vectors do not decay
              {"params": [w for w in weights if w.dim() <= 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)

    # The prompts, with room for an answer; and an engine that serves the very weights that are trained.
    asked = [(row, renderer.prompt(row.prompt)) for row in problems(data, Quarantine())]
    asked = [(row, ids) for row, ids in asked if row.answer and len(ids) + max_tokens <= model.config.context]
    if not asked:
        raise SystemExit(f"error: {data}: no prompt has an answer and leaves room for {max_tokens} tokens")
    engine = Engine(model, renderer.tokenizer, slots=max(32, samples))
    updates, rewards = steps * epochs, []

    for step in range(steps):
        # Act: `samples` answers to each prompt, their ids kept as they were drawn.
        engine.load(model)
        chosen = [asked[i] for i in visited(step, prompts, len(asked), seed)]
        requests = [Request(tuple(ids), max_tokens, how=Sampling(temperature), n=samples, seed=draw_seed(seed, step, i),
                            ends=renderer.ends) for i, (_, ids) in enumerate(chosen)]
        drawn = engine.generate(requests)

        # Score, and hold each answer against its group.
        scores = torch.tensor([[check(one.text.strip(), row.answer) for one in group]
                               for (row, _), group in zip(chosen, drawn, strict=True)])         # (P, G)
        spread = scores.std(1, keepdim=True)
        advantage = ((scores - scores.mean(1, keepdim=True)) / (spread + 1e-4)).flatten()       # (P * G,)

        # Learn: a forest of prompts and their answers. Every answer counts alike, however long it is.
        batch = answer_forest([ids for _, ids in chosen],
                              [[[token.id for token in one.tokens] for one in group] for group in drawn])
        owner = batch.answer[batch.weights.nonzero()[:, 0]]                                     # (M,)
        share = 1 / batch.lengths[owner] / len(batch.lengths)
        with torch.no_grad():
            old = token_logps(model, batch, temperature)
            known = token_logps(reference, batch, temperature) if reference else old
        for epoch in range(epochs):
            logp = token_logps(model, batch, temperature)
            ratio, a = (logp - old).exp(), advantage[owner]
            loss = -torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a)
            if reference:
                loss = loss + beta * ratio * ((known - logp).expm1() - (known - logp))          # k3, by its ratio
            (loss * share).sum().backward()
            norm = float(torch.nn.utils.clip_grad_norm_(weights, max_norm))
            for part in optimizer.param_groups:
                part["lr"] = rate(schedule, step * epochs + epoch, updates)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.graph.increment_version(weights)     # fused kernels do not, and bfloat16 shadows rely on it
        rewards.append(float(scores.mean()))
        say(f"step {step + 1}/{steps}  reward {rewards[-1]:.3f}  groups without a difference "
            f"{float((spread == 0).float().mean()):.0%}  tokens {len(owner)}  grad_norm {norm:.3f}")

    save_model(model, out, bos=renderer.tokenizer.bos, eos=sorted(renderer.ends))
    renderer.tokenizer.save(out, context=model.config.context, chat_template=renderer.template.jinja())
    return rewards


if __name__ == "__main__":
    if len(sys.argv) < 4:
        raise SystemExit(__doc__)
    given = (option.partition("=") for option in sys.argv[4:])
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), **{name: bare_value(text) for name, _, text in given})
