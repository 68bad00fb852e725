"""How far a policy has moved from its reference, and what holds it there.

With answers y drawn from the policy and log r = log pi_ref - log pi of each token,

    k1 = -log r        k2 = (log r)^2 / 2        k3 = r - 1 - log r

estimate KL(pi || pi_ref): k1 and k3 without bias, k2 with one; k1 of one answer may be negative, k3 never is, and has
less variance while the two are near (Schulman 2020, "Approximating KL divergence").  Where a vocabulary is small, the
KL of each next-token distribution is summed over all of it, `exact_kl`.

The coefficient beta of a KL penalty may be `fixed`, follow a target (`adaptive`, Ziegler et al. 2019) or a budget
(`dual`, the multiplier of max E[r] subject to KL <= budget); a `Budget` also ends the run.  For finitely many outcomes
the optimum itself is known, `tilted`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CLAMP = 20.0                    # of log r in k3: e^20 of one token would be the whole estimate
ROUNDS = 200                    # halvings of an interval: it cannot be narrower in double


# --- estimators: log-probabilities of drawn tokens in, one estimate each out, nats -----------------------------------

def k1(logp: Tensor, reference: Tensor) -> Tensor:
    """log pi - log pi_ref: no bias, much variance, of either sign."""
    return alike(logp, reference)


def k2(logp: Tensor, reference: Tensor) -> Tensor:
    """Half its square: little variance, and a bias that vanishes as the two come near."""
    return alike(logp, reference).square() / 2


def k3(logp: Tensor, reference: Tensor) -> Tensor:
    """r - 1 - log r: no bias, never negative. Beyond log r = 20 it is cut (`clamped` counts how often).

    As a loss its gradient is not that of the KL unless each term is weighted with its importance ratio.
    """
    log_r = -alike(logp, reference)
    return log_r.clamp(max=CLAMP).expm1() - log_r


def clamped(logp: Tensor, reference: Tensor) -> int:
    """How many tokens `k3` cuts: of any, the estimate is too low."""
    return int((reference - logp > CLAMP).sum())


def exact_kl(logp: Tensor, reference: Tensor) -> Tensor:
    """sum_v pi(v) (log pi(v) - log pi_ref(v)) of whole distributions (..., V), one number each."""
    difference = torch.where(logp == -math.inf, 0.0, logp - reference)      # what is never said costs nothing
    return (logp.exp() * difference).sum(-1)


def alike(logp: Tensor, reference: Tensor) -> Tensor:
    """Their difference. `ValueError` for other shapes, `FloatingPointError` for what is no log-probability."""
    if logp.shape != reference.shape:
        raise ValueError(f"policy and reference must have one shape, got {tuple(logp.shape)}, {tuple(reference.shape)}")
    for name, values in (("policy", logp), ("reference", reference)):
        if not bool(values.isfinite().all()):
            raise FloatingPointError(f"a log-probability of the {name} is not finite")
    return logp - reference


@dataclass(frozen=True)
class Measured:
    """A mean over answers and its standard error."""

    mean: float
    error: float
    count: int


def over_answers(tokens: Tensor, answer: Tensor, answers: int) -> Measured:
    """The KL of whole answers: each one's sum over its tokens (M,), `answer` (M,) saying whose each is."""
    if answers < 1:
        raise ValueError("a KL needs at least one answer")
    sums = tokens.new_zeros(answers, dtype=torch.float64).index_add(0, answer, tokens.double())
    error = float(sums.std()) / math.sqrt(answers) if answers > 1 else math.nan
    return Measured(float(sums.mean()), error, answers)


# --- controllers: the coefficient after a batch of answers whose KL was measured -------------------------------------

def fixed(beta: float, kl: float, *, samples: int, target: float, horizon: float) -> float:
    """The same for ever."""
    return beta


def adaptive(beta: float, kl: float, *, samples: int, target: float, horizon: float) -> float:
    """beta (1 + clip(KL / target - 1, -0.2, 0.2) samples / horizon). Ziegler et al. 2019, section 2.2, and their code.

    `horizon` counts answers: the time in which a KL far off moves beta by a fifth.
    """
    return beta * (1 + min(max(kl / target - 1, -0.2), 0.2) * samples / horizon)


def dual(beta: float, kl: float, *, samples: int, target: float, horizon: float) -> float:
    """max(0, beta + (KL - target) samples / horizon): dual ascent on the multiplier of KL <= target."""
    return max(0.0, beta + (kl - target) * samples / horizon)


@dataclass(frozen=True)
class Controller:
    """How beta follows what is measured. It has no state: beta is the caller's, and belongs into his checkpoints."""

    how: str = "fixed"
    target: float = 6.0
    horizon: float = 10_000.0

    def __post_init__(self) -> None:
        if self.how not in CONTROLLERS or not self.target > 0 or not self.horizon > 0:
            raise ValueError(f"one of {', '.join(CONTROLLERS)}, a target and a horizon above 0 are needed, got {self}")

    def __call__(self, beta: float, kl: float, *, samples: int) -> float:
        """The coefficient for the next batch, after `samples` answers with a mean KL of `kl` nats."""
        if beta < 0 or samples < 0:
            raise ValueError(f"beta and samples must be at least 0, got {beta} and {samples}")
        if not math.isfinite(kl):
            raise FloatingPointError(f"the measured KL is {kl}")
        return CONTROLLERS[self.how](beta, kl, samples=samples, target=self.target, horizon=self.horizon)


# --- the hard budget ---------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Budget:
    """The KL a policy may have. A measurement that is no number is beyond it."""

    nats: float

    def __post_init__(self) -> None:
        if not self.nats > 0:
            raise ValueError(f"a KL budget must be above 0, got {self.nats}")

    def exceeded(self, kl: float) -> str | None:
        """Why training should end, or None."""
        return None if kl <= self.nats else f"the KL to the reference is {kl:.3g} nats, beyond its budget of " \
                                            f"{self.nats:g}"

    def first(self, observed: Sequence[float]) -> int | None:
        """The first measurement beyond the budget; what is to be restored is the one before it (-1: the start)."""
        return next((i for i, kl in enumerate(observed) if self.exceeded(kl)), None)


# --- the optimum over finitely many outcomes -------------------------------------------------------------------------

def tilted(reference: Tensor, rewards: Tensor, beta: float) -> Tensor:
    """pi* = pi_ref exp(r / beta) / Z, which no policy of these outcomes (V,) beats in E[r] - beta KL.

    Rafailov et al. 2023, eq. 4.  At beta = 0 only the best outcomes are left, at infinity the reference.
    """
    if beta < 0 or reference.shape != rewards.shape or abs(float(reference.sum()) - 1) > 1e-6 or reference.min() < 0:
        raise ValueError("probabilities that sum to 1, a reward each and beta >= 0 are needed")
    if beta == 0:
        kept = torch.where(rewards == rewards[reference > 0].max(), reference, 0.0)
        return kept / kept.sum()
    return (reference.log() + rewards / beta).softmax(-1)


def log_partition(reference: Tensor, rewards: Tensor, beta: float) -> float:
    """beta log Z, which is the best value of E[r] - beta KL."""
    return beta * float((reference.log() + rewards / beta).logsumexp(-1))


def beta_for(reference: Tensor, rewards: Tensor, budget: float) -> float:
    """The beta whose `tilted` policy is `budget` nats from the reference: its KL falls as beta rises.

    0 where even the best outcomes alone are nearer than that; infinity for a budget of 0.
    """
    def kl(beta: float) -> float:
        return float(exact_kl(tilted(reference, rewards, beta).log(), reference.log()))

    if budget < 0:
        raise ValueError(f"a KL budget must be at least 0, got {budget}")
    if budget == 0:
        return math.inf
    if kl(0.0) <= budget:
        return 0.0
    low, high = -700.0, 700.0                                   # log beta
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if kl(math.exp(middle)) > budget else (low, middle)
    return math.exp(high)


Estimator = Callable[[Tensor, Tensor], Tensor]
ESTIMATORS: dict[str, Estimator] = {"k1": k1, "k2": k2, "k3": k3}
CONTROLLERS = {"fixed": fixed, "adaptive": adaptive, "dual": dual}
