"""Proximal policy optimisation in one flat file: a policy, a critic, a reward, and no trainer.

    python examples/ppo_flat.py MODEL REWARD DATA OUT [steps=100 prompts=64 max_tokens=64 epochs=4 beta=0.05 ...]

    r_t    = - beta (log pi_old - log pi_ref)(y_t),   and at the last token also what REWARD says of the answer
    delta  = r_t + gamma V_(t+1) - V_t,   A_t = delta + gamma lambda A_(t+1),   return_t = A_t + V_t
    policy = - min(rho A, clip(rho, 1 - clip, 1 + clip) A)                              rho = pi / pi_old, A whitened
    value  = max((V - return)^2, (clip(V, V_old - clip, V_old + clip) - return)^2) / 2
    loss   = mean over tokens of policy + value_weight * value

MODEL is a Hugging Face folder, REWARD the folder of a reward model, or a verifier's name (number, exact, ...), DATA a
file of prompts.  V_t is read where token t is predicted: before it is said.  Steps and numbers are those of
`bloomery ppo`, and a test holds them to it; what is left out is all that lies around them.
"""

import sys
from pathlib import Path

import torch

from bloomery.align.rollout import draw_seed
from bloomery.align.verifiers import VERIFIERS
from bloomery.core.config import bare_value
from bloomery.core.files import Quarantine
from bloomery.core.metrics import say
from bloomery.data.answers import answer_forest
from bloomery.data.formats import problems
from bloomery.data.stream import samples as visited
from bloomery.generate.engine import Engine
from bloomery.generate.request import Request
from bloomery.generate.sampling import AS_IS
from bloomery.generate.scoring import RewardModel
from bloomery.losses.linear_ce import linear_logp
from bloomery.model.forest import Forest
from bloomery.model.scalar import ScalarModel, save_scalar
from bloomery.model.store import load_model, save_model
from bloomery.text.chat import load_renderer
from bloomery.train.precision import choose
from bloomery.train.schedule import ScheduleConfig, rate


def main(model_folder: Path, reward: str, data: str, out: Path, *, steps: int = 100, prompts: int = 64,
         max_tokens: int = 64, epochs: int = 4, beta: float = 0.05, gamma: float = 1.0, lam: float = 0.95,
         clip: float = 0.2, value_weight: float = 0.1, lr: float = 1e-5, max_norm: float = 1.0,
         template: str = "auto", precision: str = "auto", seed: int = 0) -> list[float]:
    """Train, write `out`, and return the mean score of every step."""
    renderer, compute = load_renderer(model_folder, template), choose(precision)[0]
    policy, reference = (load_model(model_folder, compute=compute) for _ in range(2))
    critic = ScalarModel(load_model(model_folder, compute=compute), seed=None)
    torch.nn.init.zeros_(critic.score.weight)                   # before it has learned anything it expects nothing
    judge = VERIFIERS.get(reward) or RewardModel(Path(reward))
    weights, schedule = [*policy.parameters(), *critic.parameters()], ScheduleConfig(lr=lr)
    groups = [{"params": [w for w in weights if w.dim() > 1], "weight_decay": 0.1},             # vectors do not decay
              {"params": [w for w in weights if w.dim() <= 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95), fused=True)

    asked = [(row, renderer.prompt(row.prompt)) for row in problems(data, Quarantine())]
    asked = [(row, ids) for row, ids in asked if len(ids) + max_tokens <= policy.config.context]
    if not asked:
        raise SystemExit(f"error: {data}: no prompt leaves room for {max_tokens} tokens")
    engine = Engine(policy, renderer.tokenizer, slots=32)
    updates, told = steps * epochs, []

    for step in range(steps):
        # Act: one answer to each prompt, its ids kept as they were drawn.
        engine.load(policy)
        chosen = [asked[i] for i in visited(step, prompts, len(asked), seed)]
        drawn = [one for (one,) in engine.generate(
            [Request(tuple(ids), max_tokens, how=AS_IS, seed=draw_seed(seed, step, i), ends=renderer.ends)
             for i, (_, ids) in enumerate(chosen)])]

        # Score.
        if isinstance(judge, RewardModel):
            said = [[one.text.strip()] for one in drawn]
            scores = [score for (score,) in judge([row.prompt for row, _ in chosen], said)]
        else:
            scores = [judge(one.text.strip(), row.answer) for (row, _), one in zip(chosen, drawn, strict=True)]

        # What the policy, the reference and the critic think of every token, as one forest.
        batch = answer_forest([ids for _, ids in chosen], [[[token.id for token in one.tokens]] for one in drawn])
        rows, sizes = batch.weights.nonzero()[:, 0], batch.lengths.tolist()                     # (M,)

        def logps(model, batch=batch, rows=rows):                                               # noqa: ANN001
            hidden = model(batch.ids, batch.positions, Forest(batch.segments))[rows]
            return linear_logp(hidden, model.head.weight, batch.targets[rows],
                               shadow=model.head.compute_weight(hidden.dtype))

        def values(batch=batch, rows=rows):
            return critic(batch.ids, batch.positions, Forest(batch.segments))[rows, 0]

        with torch.no_grad():
            old, known, expected = logps(policy), logps(reference), values()

        # Assign credit, from the last token of each answer to its first.
        advantage = torch.zeros_like(old)
        for own, score, kl, v in zip(torch.arange(len(old)).split(sizes), scores, (old - known).split(sizes),
                                     expected.split(sizes), strict=True):
            after, ahead = 0.0, 0.0
            for t in reversed(range(len(v))):
                r = -beta * kl[t] + (score if t == len(v) - 1 else 0.0)
                ahead = r + gamma * after - v[t] + gamma * lam * ahead
                after, advantage[own[t]] = v[t], ahead
        returns = advantage + expected
        a = (advantage - advantage.mean()) * torch.rsqrt(advantage.var() + 1e-8)

        # Learn.
        for epoch in range(epochs):
            ratio, v = (logps(policy) - old).exp(), values()
            surrogate = -torch.minimum(ratio * a, ratio.clamp(1 - clip, 1 + clip) * a)
            held = torch.clamp(v, expected - clip, expected + clip)
            error = torch.maximum((v - returns).square(), (held - returns).square()) / 2
            (surrogate + value_weight * error).mean().backward()
            torch.nn.utils.clip_grad_norm_(weights, max_norm)
            for part in optimizer.param_groups:
                part["lr"] = rate(schedule, step * epochs + epoch, updates)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.graph.increment_version(weights)     # fused kernels do not, and bfloat16 shadows rely on it
        told.append(sum(scores) / len(scores))
        kl = float((old - known).sum()) / len(drawn)
        say(f"step {step + 1}/{steps}  score {told[-1]:.3f}  kl {kl:.3f}  value error {float(error.mean()):.3f}")

    save_model(policy, out, bos=renderer.tokenizer.bos, eos=sorted(renderer.ends))
    save_scalar(critic, out / "critic")
    for folder in (out, out / "critic"):
        renderer.tokenizer.save(folder, context=policy.config.context, chat_template=renderer.template.jinja())
    return told


if __name__ == "__main__":
    if len(sys.argv) < 5:
        raise SystemExit(__doc__)
    given = (option.partition("=") for option in sys.argv[5:])
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]),
         **{name: bare_value(text) for name, _, text in given})
