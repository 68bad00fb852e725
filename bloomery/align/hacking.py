"""Whether a reward is being earned or gamed: alarms in plain words, and a gold reward that is watched, never optimised.

A policy finds what a reward pays for, be it what was meant or not (Gao et al. 2023; Skalse et al. 2022, "Defining and
characterizing reward hacking").  Once a step `Alarms.heard` is given the step's figures under their usual names and
says what looks wrong, each alarm once until it clears; `sentence` says what the figures mean.  `GoldWatch` holds the
proxy against a gold reward over sqrt(KL), fits Gao et al.'s curve and ends the run when gold has stopped rising.

An alarm looks at means over the first and the last third of a window of steps, so that one noisy batch raises none.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass
from statistics import correlation, fmean, pstdev

from pydantic import Field

from bloomery.align.overoptimization import Curve, fitted
from bloomery.core.config import Settings

Figures = dict[str, float]
ALIASES = {"reward": ("reward", "objective/rlhf_reward", "objective/scores"),
           "kl": ("objective/kl", "kl"), "entropy": ("entropy", "policy/entropy_avg", "objective/entropy"),
           "clipped": ("clip_ratio/region_mean", "policy/clipfrac_avg")}                # GRPO's names, then PPO's
KEPT = ("reward", "reward_std", "frac_reward_zero_std", "kl", "entropy", "gold", "completions/mean_length",
        "completions/clipped_ratio", "completions/repetition", "rewards/disagreement", "rewards/failures")
LOWEST = 1e-9                   # below it a spread is no spread


class AlarmsConfig(Settings):
    """When the figures of a run look wrong."""

    window: int = Field(24, ge=6, description="steps that are looked back on")
    length_growth: float = Field(1.25, gt=1, description="answers this much longer while the reward rises with them")
    repetition: float = Field(0.3, gt=0, le=1, description="share of an answer's 4-grams that it has said before")
    disagreement: float = Field(1.5, gt=1, description="growth of the deviation between an ensemble's members")
    entropy: float = Field(0.2, gt=0, lt=1, description="share of its first entropy below which a policy is settled")
    zero_std: float = Field(0.8, gt=0, le=1, description="share of groups whose answers all have one reward")
    kl: float | None = Field(None, gt=0, description="nats from the reference; default: no alarm")
    cut_off: float = Field(0.5, gt=0, le=1, description="share of answers that are cut off")
    failures: float = Field(0.1, gt=0, le=1, description="share of checks that broke or took too long")


@dataclass(frozen=True)
class Change:
    """A figure's mean over the first and the last third of the window; `noise` is the error of their difference."""

    before: float
    now: float
    noise: float

    @property
    def rises(self) -> bool:
        return self.now - self.before > 2 * self.noise + LOWEST

    @property
    def falls(self) -> bool:
        return self.before - self.now > 2 * self.noise + LOWEST


class Recent:
    """The figures of the last steps, as alarms ask for them; `first` are means over a run's first third of a window."""

    def __init__(self, rows: Sequence[Figures], first: Figures, config: AlarmsConfig):
        self.rows, self.first, self.config = rows, first, config

    def values(self, name: str) -> list[float]:
        return [row[name] for row in self.rows if name in row]

    def change(self, name: str, *, least: int = 6) -> Change | None:
        """How a figure moved, None while it was seen fewer than `least` times."""
        values = self.values(name)
        if len(values) < least:
            return None
        third = max(1, len(values) // 3)
        before, now = values[:third], values[-third:]
        return Change(fmean(before), fmean(now), math.sqrt((pstdev(before)**2 + pstdev(now)**2) / third))

    def now(self, name: str) -> float | None:
        """A figure's mean over the last third of a window that is at least a third full."""
        values, third = self.values(name), self.config.window // 3
        return fmean(values[-third:]) if len(values) >= third else None


# --- alarms: a sentence, or None -------------------------------------------------------------------------------------

def only_longer(recent: Recent) -> str | None:
    """The reward rises, answers grow, and what the length does not explain of the reward does not rise."""
    reward, length = recent.change("reward"), recent.change("completions/mean_length")
    if not reward or not length or not reward.rises or length.now < recent.config.length_growth * length.before:
        return None
    pairs = [(row["completions/mean_length"], row["reward"]) for row in recent.rows
             if "reward" in row and "completions/mean_length" in row]
    found = correlation(*zip(*pairs, strict=True)) if len(pairs) > 2 else 0.0
    if found < 0.8:
        return None
    return f"reward rises only with length: from {reward.before:.3g} to {reward.now:.3g} while answers grew from " \
           f"{length.before:.0f} to {length.now:.0f} tokens (correlation {found:.2f}); read some of them, and take a " \
           "length penalty or a reward that does not pay for words"


def repeats(recent: Recent) -> str | None:
    now = recent.now("completions/repetition")
    return f"answers repeat themselves: {now:.0%} of their 4-grams were said before in the same answer; the reward " \
           "may pay for it: read some of them" if now is not None and now > recent.config.repetition else None


def members_disagree(recent: Recent) -> str | None:
    """Coste et al. 2024: members part where their training data ends, and there the policy goes."""
    now, first = recent.now("rewards/disagreement"), recent.first.get("rewards/disagreement")
    if now is None or not first or now < recent.config.disagreement * first:
        return None
    return f"the reward models disagree {now / first:.1f} times as much as at first: answers are now unlike what " \
           "they were trained on; trust the reward less, take combine=lower or min, or stop"


def settles(recent: Recent) -> str | None:
    now, first = recent.now("entropy"), recent.first.get("entropy")
    if now is None or not first or first <= 0 or now > recent.config.entropy * first:
        return None
    return f"the policy has almost stopped exploring: its entropy is {now:.3g}, at first it was {first:.3g}; " \
           "a smaller learning rate, a KL or entropy term, or a larger upper clip (DAPO) keep it alive"


def nothing_to_compare(recent: Recent) -> str | None:
    now = recent.now("frac_reward_zero_std")
    if now is None or now < recent.config.zero_std:
        return None
    reward = recent.now("reward")
    return f"in {now:.0%} of the groups all answers have the same reward, and nothing is learned from those" + \
        ("" if reward is None else f" (mean reward {reward:.3g})") + \
        ": take prompts that are sometimes solved, larger groups, a hotter sampler, or dynamic sampling (DAPO)"


def far_off(recent: Recent) -> str | None:
    now, limit = recent.now("kl"), recent.config.kl
    return f"the policy is {now:.3g} nats from its reference, beyond {limit:g}: raise beta, or set a KL budget" \
        if now is not None and limit is not None and now > limit else None


def gold_falls(recent: Recent) -> str | None:
    reward, gold = recent.change("reward"), recent.change("gold", least=3)
    return f"the reward rises ({reward.before:.3g} to {reward.now:.3g}) while the gold reward falls " \
           f"({gold.before:.3g} to {gold.now:.3g}): the reward is being gamed; go back to where gold was best" \
        if reward and gold and reward.rises and gold.falls else None


def cut_off(recent: Recent) -> str | None:
    now = recent.now("completions/clipped_ratio")
    return f"{now:.0%} of the answers are cut off before they end, and judged unfinished: allow more tokens, or make " \
           "length cost" if now is not None and now > recent.config.cut_off else None


def reward_breaks(recent: Recent) -> str | None:
    now = recent.now("rewards/failures")
    return f"the reward itself fails on {now:.0%} of the answers, which score 0: what is learned may be how to break " \
           "it" if now is not None and now > recent.config.failures else None


ALARMS: dict[str, Callable[[Recent], str | None]] = {
    "length": only_longer, "repetition": repeats, "disagreement": members_disagree, "entropy": settles,
    "zero_std": nothing_to_compare, "kl": far_off, "gold": gold_falls, "cut_off": cut_off, "failures": reward_breaks}


class Alarms:
    """What looks wrong, each thing said once until it clears. All it knows is in `state`, for checkpoints."""

    def __init__(self, config: AlarmsConfig | None = None):
        self.config = config or AlarmsConfig()
        self.rows: deque[Figures] = deque(maxlen=self.config.window)
        self.opening: list[Figures] = []                # the first steps of the run: what is compared with later
        self.standing: set[str] = set()

    def heard(self, figures: Figures) -> list[str]:
        """Take in a step's figures; the alarms that begin with it."""
        row = {name: float(value) for name in KEPT if (value := named(figures, name)) is not None}
        self.rows.append(row)
        if len(self.opening) < self.config.window // 3:
            self.opening.append(row)
        recent = Recent(self.rows, means(self.opening), self.config)
        raised = {name: said for name, alarm in ALARMS.items() if (said := alarm(recent))}
        fresh = [said for name, said in raised.items() if name not in self.standing]
        self.standing = set(raised)
        return fresh

    def state(self) -> dict:
        """Plain values, as JSON has them."""
        return {"rows": list(self.rows), "opening": self.opening, "standing": sorted(self.standing)}

    @classmethod
    def restored(cls, state: dict, config: AlarmsConfig | None = None) -> "Alarms":
        """As it was when `state` was taken."""
        alarms = cls(config)
        alarms.rows.extend(state["rows"])
        alarms.opening, alarms.standing = list(state["opening"]), set(state["standing"])
        return alarms


def named(figures: Figures, name: str) -> float | None:
    """A figure under any of its names, None where it is missing or no number."""
    found = (figures[alias] for alias in ALIASES.get(name, (name,)) if alias in figures)
    return next((value for value in found if math.isfinite(value)), None)


def means(rows: Sequence[Figures]) -> Figures:
    return {name: fmean(values) for name in KEPT if (values := [row[name] for row in rows if name in row])}


def repetition(tokens: Sequence[Hashable], n: int = 4) -> float:
    """The share of an answer's n-grams that stood in it before; 0 for one that is too short to have two."""
    grams = Counter(tuple(tokens[at:at + n]) for at in range(len(tokens) - n + 1))
    return 1 - len(grams) / grams.total() if grams else 0.0


# --- what a step's figures mean ---------------------------------------------------------------------------------------

def sentence(figures: Figures) -> str:
    """One plain sentence on a step: what was earned, whether there was something to learn, and how it was learned."""
    parts = [said for part in PARTS if (said := part(figures))]
    return "; ".join(parts) + "." if parts else "no figures yet."


def earned(figures: Figures) -> str:
    reward, deviation = named(figures, "reward"), named(figures, "reward_std")
    return "" if reward is None else f"answers earn {reward:.3g} on average" + (
        "" if deviation is None else ", all the same" if deviation < LOWEST else f", give or take {deviation:.2g}")


def compared(figures: Figures) -> str:
    same = named(figures, "frac_reward_zero_std")
    return "" if not same else "no group has answers of different reward, so nothing is learned from this step" \
        if same > 1 - LOWEST else f"{same:.0%} of the groups teach nothing, since all their answers earn the same"


def lost(figures: Figures) -> str:
    """The surrogate of a policy gradient is no error: at ratio 1 its mean is that of the advantages, which is 0."""
    loss = figures.get("loss", figures.get("loss/policy_avg"))
    return "" if loss is None or not math.isfinite(loss) else \
        f"a loss near 0 ({loss:.1g}) is normal, since advantages sum to 0: watch the reward" if abs(loss) < 0.02 \
        else f"the loss is {loss:.2g}, which says little here: watch the reward"


def stayed(figures: Figures) -> str:
    kl, clipped = named(figures, "kl"), named(figures, "clipped")
    said = "" if kl is None else f"the policy is {kl:.2g} nats from its reference"
    return said + ("" if not clipped else f"{' and ' if said else ''}{clipped:.0%} of the tokens hit the clip")


PARTS = (earned, compared, lost, stayed)


# --- gold ------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Look:
    """One measurement: what is optimised, what is wanted, and the KL in nats it took."""

    step: int
    proxy: float
    gold: float
    kl: float

    @property
    def distance(self) -> float:
        return math.sqrt(max(0.0, self.kl))             # an estimate may be below 0


class GoldWatch:
    """Proxy against gold as the policy moves: the best step so far, the fitted peak, and when to stop.

    The first look, at the model the run began with, is the origin of the curve.  Only gold decides; the caller keeps
    the weights of `best.step` and restores them.
    """

    def __init__(self, *, patience: int = 3, min_delta: float = 0.0, kind: str = "rl"):
        if patience < 1 or min_delta < 0:
            raise ValueError(f"patience >= 1 and min_delta >= 0 are needed, got {patience} and {min_delta}")
        Curve(kind, 0.0, 0.0)                           # refuses a kind it does not know
        self.patience, self.min_delta, self.kind = patience, min_delta, kind
        self.looks: list[Look] = []
        self.best: Look | None = None
        self.waited = 0

    def seen(self, step: int, *, proxy: float, gold: float, kl: float) -> str | None:
        """Take in a look; why to stop and go back to `best.step`, or None. A gold that is no number is no better."""
        look = Look(step, proxy, gold, kl)
        self.looks.append(look)
        if math.isfinite(gold) and (self.best is None or gold - self.best.gold > self.min_delta):
            self.best, self.waited = look, 0
            return None
        self.waited += 1
        if self.waited < self.patience:
            return None
        if self.best is None:
            return f"the gold reward was no number in {self.waited} looks"
        return f"the gold reward was best at step {self.best.step} ({self.best.gold:.4g}) and no better in " \
               f"{self.waited} looks since; it is {gold:.4g} now, while the reward went from {self.best.proxy:.4g} " \
               f"to {proxy:.4g}"

    @property
    def curve(self) -> Curve | None:
        """Gao et al.'s curve through what gold gained since the first look; None with fewer than two distances."""
        finite = [look for look in self.looks if math.isfinite(look.gold + look.kl)]
        if len({look.distance for look in finite[1:] if look.distance > 0}) < 2:
            return None
        return fitted([look.distance for look in finite[1:]], [look.gold - finite[0].gold for look in finite[1:]],
                      self.kind)

    def figures(self) -> Figures:
        """What is told of it: best so far, and where the curve says more optimisation hurts (finite peaks only)."""
        if self.best is None:
            return {}
        told = {"gold/best": self.best.gold, "gold/best_step": float(self.best.step), "gold/best_kl": self.best.kl}
        curve = self.curve
        if curve is None:
            return told
        told |= {"gold/alpha": curve.alpha, "gold/beta": curve.beta}
        return told | ({"gold/peak_kl": curve.peak**2, "gold/peak_gain": curve(curve.peak)}
                       if curve.peak < 1e6 else {})

    def state(self) -> dict:
        """Plain values, as JSON has them."""
        return {"looks": [asdict(look) for look in self.looks], "best": self.best and asdict(self.best),
                "waited": self.waited}

    @classmethod
    def restored(cls, state: dict, *, patience: int = 3, min_delta: float = 0.0, kind: str = "rl") -> "GoldWatch":
        """As it was when `state` was taken."""
        watch = cls(patience=patience, min_delta=min_delta, kind=kind)
        watch.looks = [Look(**look) for look in state["looks"]]
        watch.best, watch.waited = state["best"] and Look(**state["best"]), state["waited"]
        return watch
