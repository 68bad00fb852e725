"""Reinforcement learning: act, score, assign credit, learn, and again. PPO, REINFORCE, RLOO, GRPO and their relatives.

    y_1 ... y_G ~ pi_old(.|x),      R_i = r(x, y_i) - beta KL,      A = credit(R),      theta <- theta + grad policy(A)

One stage for all of them: an algorithm is an advantage (`losses/advantage.py`), a policy loss (`losses/policy.py`),
and a denominator.  A verb of `stages.py` presets the three; what it says can be said otherwise.

    ppo   gae, token      reinforce  batch, reinforce    rloo  rloo, answer      gspo  group, sequence
    grpo  group, token    dr_grpo  the same, unscaled    dapo  with clip-higher, dynamic sampling, overlong masking

A step is a rollout and the updates that learn from it.  Checkpoints stand between steps, what is drawn is a function
of (weights, seed, step): nothing that is in flight need be kept for a resumed run to be the same to the bit.
"""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from bloomery.align import environment, rewards, rl_config, rl_figures
from bloomery.align.candidates import room
from bloomery.align.control import Control
from bloomery.align.critic import ActorCritic, policy_of, with_critic
from bloomery.align.experience import Experience, experience, minibatches
from bloomery.align.hacking import sentence
from bloomery.align.kl import ESTIMATORS
from bloomery.align.look import Look, scored
from bloomery.align.policy_objective import Terms, objective
from bloomery.align.ptx import Ptx
from bloomery.align.rewards import Rewards, Told
from bloomery.align.rl_config import LearnerConfig, raise_contradictions
from bloomery.align.rollout import Actor, Asked, Group, Source, read_groups
from bloomery.align.rounds import asked as read_prompts
from bloomery.align.served import BACKENDS
from bloomery.align.spoken import spoken
from bloomery.core.artifacts import write_atomic
from bloomery.core.config import Input
from bloomery.core.errors import Preempted
from bloomery.core.files import Quarantine
from bloomery.core.metrics import MetricLog, say, shorten
from bloomery.data.splits import spread_out
from bloomery.data.stream import samples
from bloomery.generate.sampling import AS_IS, GREEDY
from bloomery.losses.advantage import ADVANTAGE, gae, token_rewards, whiten, without_spread
from bloomery.model.adapt import adapt
from bloomery.model.lora import using
from bloomery.model.scalar import save_scalar
from bloomery.model.store import load_model
from bloomery.model.transformer import Transformer
from bloomery.text.chat import Renderer
from bloomery.train import checkpoint
from bloomery.train.hooks import BEST_STEP, stop_signal
from bloomery.train.loop import train_step
from bloomery.train.objective import Metrics, Objective
from bloomery.train.precision import machine
from bloomery.train.session import diverged, joined, prepared
from bloomery.train.state import Report, State
from bloomery.train.trackers import Start, Trackers
from bloomery.train.tuning import export, export_adapter, open_model

SWITCHED = ("lora", "qlora")            # adapters that can be off: what is left is the reference, bit for bit
forecast = rl_config.forecast


class Config(LearnerConfig):
    """Learn from a reward of the policy's own answers."""

    data: Input = Field(description="a file or folder of prompts, with the answers that a verifier needs")
    validation: Input | None = Field(None, description="held-out prompts, on which the policy is looked at")
    columns: dict[str, str] = Field({}, description="their column = ours, where they differ: question = \"prompt\"")


# --- act, score, assign credit, learn -----------------------------------------------------------------------------

@dataclass
class Learner:
    """All that a step needs."""

    config: LearnerConfig
    state: State
    control: Control
    source: Source
    rewards: Rewards | None
    objective: Objective
    asked: list[Asked]
    reference: Transformer | None       # None where the adapter is switched off instead, or nobody needs one
    ptx: Ptx | None = None

    @property
    def policy(self) -> Transformer:
        return policy_of(self.state.model)

    @property
    def critic(self) -> ActorCritic | None:
        return self.state.model if isinstance(self.state.model, ActorCritic) else None

    def run(self, step: int) -> Metrics:
        """One step; its figures."""
        began = time.perf_counter()
        groups, told = self.act(step)
        drawn = time.perf_counter()
        found = self.credit(groups, told)
        beta = self.control.beta
        reports = self.learn(found, step)
        seen = self.config.kl.needs_reference
        figures = rl_figures.of_rollout(groups, told) | rl_figures.of_learning(reports, critic=bool(self.critic)) | \
            rl_figures.of_credit(found, told, beta=beta, reference=seen, critic=bool(self.critic))
        if seen:
            self.control.follow(figures["objective/kl"], len(found.kept))
        ended = time.perf_counter()
        return figures | {"num_tokens": float(self.state.tokens), "episode": float((step + 1) * len(found.kept)),
                          "step_time": ended - began, "rollout_time": drawn - began, "update_time": ended - drawn}

    def act(self, step: int) -> tuple[list[Group], Told]:
        """The step's groups and what they earn; prompts that teach nothing are replaced, as often as is allowed."""
        config, kept, spare = self.config, [], []
        places = samples(step, config.prompts * (1 + config.redraws), len(self.asked), config.seed).tolist()
        for _ in range(1 + config.redraws):
            wanted, at = config.prompts - len(kept), len(kept) + len(spare)
            asked = [replace(self.asked[places[i]], place=i) for i in range(at, at + wanted)]
            groups = self.source(self.policy, asked, step=step)
            rows = apart(scored(groups, self.rewards), groups)
            same = without_spread(rl_figures.table(joined_rows(rows))).tolist() if config.redraws else [False] * wanted
            kept += [row for row, teaches_nothing in zip(rows, same, strict=True) if not teaches_nothing]
            spare += [row for row, teaches_nothing in zip(rows, same, strict=True) if teaches_nothing]
            if len(kept) == config.prompts:
                break
        every = (kept + spare)[:config.prompts]
        return [group for group, _ in every], joined_rows(every)

    def credit(self, groups: list[Group], told: Told) -> Experience:
        """Each token's advantage: what its answer earned, less what a KL costs, against what was to be expected."""
        config, found = self.config, experience(groups, mask_overlong=self.config.mask_overlong)
        self.read(found)
        earned, lengths = rl_figures.table(told), found.lengths                          # (P, G), (A,)
        kl = torch.zeros_like(found.old)
        if config.kl.place == "reward" and config.kl.needs_reference:
            kl = ESTIMATORS[config.kl.estimator](found.old, found.reference)
        if config.advantage == "gae":
            missing = earned.flatten().isnan().tolist()
            found.kept = [kept and not gone for kept, gone in zip(found.kept, missing, strict=True)]
            each = token_rewards(kl, earned.flatten().nan_to_num(), lengths, beta=self.control.beta)
            each = whiten(each, shift=False) if config.whiten_rewards else each
            advantage, found.returns = gae(each, found.values, lengths, gamma=config.gamma, lam=config.lam)
            found.advantage = whiten(advantage) if config.whiten else advantage
            return found
        owner = torch.arange(len(lengths)).repeat_interleave(lengths)
        cost = self.control.beta * torch.zeros(len(lengths)).index_add(0, owner, kl)
        scale = {"scale": config.scale} if config.advantage == "group" else {}
        advantage = ADVANTAGE[config.advantage](earned - cost.view_as(earned), **scale)
        found.advantage = found.to_tokens(advantage.flatten())
        return found

    def read(self, found: Experience) -> None:
        """How likely the trainer, the reference and the critic find what was drawn, as far as that is needed."""
        config, how, team = self.config, self.config.sampling.how, self.state.team

        def of_policy(batch) -> list[Tensor]:                                            # noqa: ANN001
            said = spoken(self.policy, batch, how)
            return [said.logp] + ([self.critic.values(batch, said.rows, said.hidden)] if self.critic else [])

        if self.critic or config.updates > 1 or self.state.step == 0:
            found.old, *values = read_groups(of_policy, found.groups, config.micro_tokens, team)
            found.values = values[0] if values else found.values
        if config.kl.needs_reference:
            found.reference = self.reference_logps(found.groups)

    def reference_logps(self, groups: Sequence[Group]) -> Tensor:
        """log p of all own tokens under the reference, at the sampler's temperature, (M,)."""
        how = replace(AS_IS, temperature=self.config.sampling.temperature)
        with referring(self.policy, self.reference) as model:
            return read_groups(lambda batch: [spoken(model, batch, how).logp], groups, self.config.micro_tokens,
                               self.state.team)[0]

    def learn(self, found: Experience, step: int) -> list[Report]:
        """The updates of a step. Those a large KL or an empty minibatch leaves out are counted as made."""
        config, state, reports = self.config, self.state, []
        for epoch in range(config.epochs):
            parts = minibatches(found, parts=config.minibatches, epoch=epoch, step=step, seed=config.seed,
                                micro_tokens=config.micro_tokens, normalise=config.normalise,
                                longest=config.sampling.max_tokens,
                                beta=self.control.beta if config.kl.place == "loss" else 0.0)
            for batches in parts:
                if not batches:
                    state.step += 1
                    continue
                count = sum(batch.count for batch in batches)
                text = self.ptx.batches(state.step, count=count, micro_tokens=config.micro_tokens,
                                        seed=config.seed) if self.ptx else []
                reports.append(train_step(state, [*batches, *text], self.objective, config.optimizer.clip))
                if config.stop_kl and reports[-1].metrics["policy/approxkl_avg"] > 1.5 * config.stop_kl:
                    state.step = (step + 1) * config.updates
                    return reports
        return reports


def apart(told: Told, groups: Sequence[Group]) -> list[tuple[Group, Told]]:
    """Each group with its own row of what was told."""
    return [(group, Told([told.total[i]], {name: [table[i]] for name, table in told.parts.items()}, told.failures,
                         told.disagreement)) for i, group in enumerate(groups)]


def joined_rows(rows: Sequence[tuple[Group, Told]]) -> Told:
    """Rows as one again; failures and disagreement are those last told."""
    last = rows[-1][1]
    return Told([told.total[0] for _, told in rows],
                {name: [told.parts[name][0] for _, told in rows] for name in last.parts}, last.failures,
                last.disagreement)


@contextmanager
def referring(policy: Transformer, reference: Transformer | None) -> Iterator[Transformer]:
    """The reference: a model of its own, or the policy with its adapter off."""
    with nullcontext() if reference is not None else using(policy, None):
        yield policy if reference is None else reference


# --- the stage ----------------------------------------------------------------------------------------------------

def run(config: Config, out: Path, *, dictated: Source | None = None) -> dict:
    """Reinforcement learning; exports a Hugging Face folder that chats, and a critic of its own in `out/critic`.

    `dictated` acts in the engine's place.
    """
    raise_contradictions(config)
    policy, renderer = open_model(config)
    policy.compute, device = machine(config)
    quarantine, team = Quarantine(), replace(joined(), device=device)
    world = environment.opened(config.environment) if config.environment else None
    asked, dropped = prompts(config.data, config, renderer, policy.config.context, quarantine, world)
    held_out = prompts(config.validation, config, renderer, policy.config.context, quarantine, world)[0] \
        if config.validation else asked if config.kl.budget or config.gold else []
    ptx = Ptx(config.ptx, renderer, policy.config.context, quarantine) if config.ptx.data else None
    quarantine.write(out)
    earned, gold = (rewards.opened(each, scales=out / f"{name}.json", compute=policy.compute, team=team, device=device)
                    if each else None
                    for name, each in (("scales", config.reward), ("gold-scales", config.gold)))
    reference = None
    if config.adapt.method not in SWITCHED and (config.kl.needs_reference or held_out and config.look.prompts):
        reference = load_model(Path(config.model), compute=policy.compute).requires_grad_(False).to(device)
    adapt(policy, config.adapt, seed=config.seed)
    model = with_critic(policy, config.critic, start=config.model) if config.advantage == "gae" else policy
    model.compute = policy.compute

    home = Path(team.broadcast(str(out))) / "checkpoints"       # other ranks write what is theirs elsewhere
    saved = team.broadcast((found := checkpoint.latest(home) if team.leads else None) and found[1])
    state, identity = prepared(model, config.model_copy(update={"steps": config.steps * config.updates}), home, team,
                               name="rl", stream=lambda step: [], objective=lambda model, batch: (0.0, {}))
    control = Control(config.kl, config.alarms, patience=config.patience, saved=saved and saved["rl"])
    how, room = config.sampling.how, config.sampling.max_tokens
    longest = max(len(one.prompt) for one in (*asked, *held_out)) + room
    engine = BACKENDS[config.rollout.backend](
        config.rollout, policy, renderer.tokenizer, out / "served", context=min(policy.config.context, longest),
        slots=max(config.slots, config.samples, config.look.samples), team=team)
    actor = Actor(engine, renderer, how, samples=config.samples, max_tokens=room, seed=config.seed, world=world,
                  team=team)
    terms = Terms(config, config.kl.estimator, config.kl.corrected, config.kl.place == "loss", how,
                  config.updates == 1, config.critic.coefficient, config.critic.clip)
    learner = Learner(config, state, control, dictated or actor, earned, objective(terms, reference), asked, reference,
                      ptx)
    look = looking(learner, actor, spread_out(held_out, config.look.prompts), gold)
    saver = checkpoint.Saver(home, identity, kept=config.keep, background=config.background)
    ended = train(learner, look, saver, out)
    if ended:
        say(f"  rl: ends after step {state.step // config.updates} of {config.steps}: {ended}")
    if state.best.get(BEST_STEP, state.step) != state.step:
        say(f"  rl: restores the weights of step {checkpoint.load_best(state, None, home) // config.updates}")
    write_out(learner, look, renderer, out)
    return {"prompts": len(asked), "prompts_without_room": dropped, "tokens": state.tokens, **state.best,
            **({"ended": ended} if ended else {})}


def prompts(path: str, config: Config, renderer: Renderer, context: int, quarantine: Quarantine,
            world: type[environment.Environment] | None) -> tuple[list[Asked], int]:
    """The prompts of a file that leave room for an answer, rendered, and how many do not."""
    found, own = read_prompts(path, config.columns)
    quarantine.entries += own.entries
    quarantine.reasons.update(own.reasons)
    if world:
        found = [replace(problem, prompt=world().reset(problem)) for problem in found]
    fitting, without_room = room(found, renderer, context, where=path, least=config.room)
    return [Asked(problem, ids, place) for place, (problem, ids) in enumerate(fitting)], without_room


def looking(learner: Learner, actor: Actor, asked: Sequence[Asked], gold: Rewards | None) -> Look:
    """What looks at the policy at every validation; of a budget as many answers as it wants."""
    config, wanted = learner.config, learner.config.look.samples
    if config.kl.budget and asked:
        wanted = max(wanted, -(-config.kl.samples // len(asked)))
    known = learner.reference is not None or config.adapt.method in SWITCHED
    plain = replace(AS_IS, temperature=config.sampling.temperature)

    def read(groups: Sequence[Group]) -> tuple[Tensor, Tensor]:
        logp, = read_groups(lambda batch: [spoken(learner.policy, batch, plain).logp], groups, config.micro_tokens,
                            learner.state.team)
        return logp, learner.reference_logps(groups)

    likeliest = actor.otherwise(GREEDY, samples=1) if config.look.greedy else None
    look = Look(asked, actor.otherwise(plain, samples=wanted), likeliest, learner.rewards, gold,
                read if known else None)
    if asked and known:
        with referring(learner.policy, learner.reference) as reference:
            look.begin(reference)
    return look


def train(learner: Learner, look: Look, saver: checkpoint.Saver, out: Path) -> str | None:
    """Step after step, from where the state stands; why it ended early, or None. Raises `Preempted` after saving."""
    config, state, control = learner.config, learner.state, learner.control
    about = {"compute": str(state.model.compute).removeprefix("torch."), "model": learner.policy.config.model_dump(
        mode="json")}

    def save() -> None:
        saver.save(state, about=about | {"rl": control.state()})

    def measure() -> str | None:
        values = look(learner.policy)
        reason, best = control.judged(state.step, values)
        values |= control.gold.figures()
        state.best |= values
        log.log(state.step // config.updates, **values, quiet=True)
        if values:
            say(f"  rl {state.step // config.updates}: " + "  ".join(f"{k} {shorten(v)}" for k, v in values.items()))
        if best:
            state.best[BEST_STEP] = state.step
            save()
        return reason

    start = Start(out, out.name, config.model_dump(mode="json"), state.step)
    with stop_signal.caught(), Trackers(config.track if state.team.leads else (), start) as trackers, \
            MetricLog(out, name="rl", resume_step=state.step // config.updates, listeners=(trackers,)) as log:
        reason = measure() if control.looked < 0 else None
        while not reason and state.step < state.steps:
            try:
                figures = learner.run(state.step // config.updates)
            except FloatingPointError as error:
                saver.wait()
                raise diverged(state, out, "rl", error, None) from error
            done = state.step // config.updates
            tell(log, done, config.steps, figures, control)
            if done % config.validate_every == 0 or done == config.steps:
                reason = measure()
            if not reason and (done % config.save_every == 0 or done == config.steps):
                save()
            if stop := state.team.first(stop_signal.reason):
                save()
                saver.wait()
                raise Preempted("stopped and saved", where=f"rl, step {done} of {config.steps}", why=stop,
                                hint="run the same command again to go on")
        saver.wait()
    return reason


def tell(log: MetricLog, step: int, steps: int, figures: Metrics, control: Control) -> None:
    """A step's row, what it means in a sentence, and what looks wrong."""
    means = sentence(figures)
    log.log(step, **figures, means=means, quiet=True)
    say(f"  rl {step}/{steps}: {means}")
    for alarm in control.alarms.heard(figures):
        log.log(step, event="alarm", why=alarm, quiet=True)
        say(f"  warning: {alarm}")


def write_out(learner: Learner, look: Look, renderer: Renderer, out: Path) -> None:
    """The policy, its adapter, its critic, and what it answered before and answers now."""
    config, policy = learner.config, learner.policy
    rows = look.before_and_after(policy, config.look.shown) if look.asked else []
    write_atomic(out / "answers.json", json.dumps(rows, indent=1, ensure_ascii=False))
    if learner.critic and learner.critic.critic is not None:
        save_scalar(learner.critic.critic, out / "critic")
        renderer.tokenizer.save(out / "critic", context=policy.config.context,
                                chat_template=renderer.template.jinja())
    tuned = policy if config.adapt.method == "full" else export_adapter(policy, renderer, out, base=config.model)
    if tuned:
        export(tuned, renderer, out)
