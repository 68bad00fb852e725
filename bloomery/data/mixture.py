"""How much of each domain a run reads, and in which order the domains take turns.

    p_k = min(N_k, cap)^(1/tau) / sum_j min(N_j, cap)^(1/tau)           Raffel et al. 2020, section 3.5.2

tau = 1 draws in proportion to size, tau -> infinity from all alike.  The cap limits what a size counts for; it takes
nothing away from a domain.  A limit of epochs does: what a domain may not give is taken from the others in proportion
to their shares.  From equal shares that is UniMax (Chung et al. 2023, arXiv 2304.09151, algorithm 1).

Turns are not drawn at random: sample j of domain k is due at time (j + 1/2) / p_k and samples come in the order they
are due (the divisor method of Webster and Sainte-Lague).  So every prefix of a run has the shares asked for to within a
few samples, and which domain sample i belongs to is a function of i: nothing has to be remembered for a resume.
"""

import numpy as np

from bloomery.core.metrics import say


def temperature_shares(sizes: list[int], *, temperature: float = 1.0, cap: float | None = None) -> np.ndarray:
    """The share p_k of each domain, (K,) summing to 1: first the cap, then the temperature, in log space.

    `ValueError` for a size, a temperature or a cap that is not above 0.
    """
    for name, values in {"size": sizes, "temperature": [temperature], "cap": [] if cap is None else [cap]}.items():
        if wrong := [value for value in values if not value > 0]:
            raise ValueError(f"a {name} must be above 0, got {wrong[0]}")
    if not len(sizes):
        raise ValueError("no sizes to share between")
    logs = np.log(np.minimum(np.asarray(sizes, np.float64), np.inf if cap is None else cap)) / temperature
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def limited_shares(shares: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Shares of which none is above its limit: what is over goes to the others in proportion to their shares, (K,).

    Limits and shares are parts of one run.  Where all limits together are less than the run, each domain is at its own
    and all are repeated in proportion.  `ValueError` for a share or a limit that is not above 0.
    """
    shares, limits = np.asarray(shares, np.float64), np.asarray(limits, np.float64)
    if not (shares > 0).all() or not (limits > 0).all():
        raise ValueError("shares and limits must be above 0")
    found, left, weight = np.zeros(len(shares)), 1.0, shares.sum()
    for domain in np.argsort(limits / shares, kind="stable"):          # those that reach their limit first
        found[domain] = min(left * shares[domain] / weight, limits[domain])
        left, weight = left - found[domain], weight - shares[domain]
    return found / found.sum()


def unimax_shares(sizes: list[int], budget: float, epochs: float) -> np.ndarray:
    """All alike, but nobody more than `epochs` times what it has, of `budget` in all; (K,) summing to 1."""
    return limited_shares(np.ones(len(sizes)), epochs * np.asarray(sizes, np.float64) / budget)


def largest_remainder(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers that sum to `total`, each less than 1 from its share of it (Hamilton); ties go to the first."""
    exact = np.asarray(shares, np.float64) * total
    counts = np.floor(exact).astype(np.int64)
    order = np.argsort(counts - exact, kind="stable")
    counts[order[:total - counts.sum()]] += 1
    return counts


def domain_shares(sizes: dict[str, int], *, weights: dict[str, float] | None = None, temperature: float = 1.0,
                  cap: float | None = None, limits: dict[str, float] | None = None) -> dict[str, float]:
    """The share of each domain by name, from `weights` or else from the sizes, and none above its limit.

    What is empty or weighs nothing is left out, with a warning.
    """
    kept = [name for name, size in sizes.items() if size > 0 and (not weights or weights[name] > 0)]
    for name in sizes.keys() - set(kept):
        say(f"warning: domain {name} is left out: it " + ("has no samples" if not sizes[name] else "weighs nothing"))
    if not kept:
        raise ValueError("every domain is empty or weighs nothing")
    if weights:
        shares = np.array([weights[name] for name in kept]) / sum(weights[name] for name in kept)
    else:
        shares = temperature_shares([sizes[name] for name in kept], temperature=temperature, cap=cap)
    if limits:
        shares = limited_shares(shares, np.array([limits[name] for name in kept]))
    return dict(zip(kept, shares.tolist(), strict=True))


def turns(shares: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples first..last-1 of a run: the domain of each, and which one of that domain it is, (last - first,) twice."""
    before, domain, place = due(shares, first, last)
    start = first - before.sum()
    return domain[start:start + last - first], place[start:start + last - first]


def taken(shares: np.ndarray, count: int) -> np.ndarray:
    """How many of the first `count` samples each domain gave, (K,)."""
    before, domain, _ = due(shares, count, count)
    return before + np.bincount(domain[:count - before.sum()], minlength=len(before))


def due(shares: np.ndarray, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Samples in the order they are due, from a little before `first` to a little after `last`: their domains, which of
    its domain each is, and how many of every domain came before the first of them.

    Shares are above 0 and sum to 1.  At time t between t - K / 2 and t + K / 2 samples of K domains are due.
    """
    shares = np.asarray(shares, np.float64)
    margin = len(shares) + 2
    low, high = (np.floor(max(t, 0) * shares + 0.5).astype(np.int64) for t in (first - margin, last + margin))
    domain = np.repeat(np.arange(len(shares)), high - low)
    place = np.concatenate([np.arange(a, b) for a, b in zip(low, high, strict=True)])
    order = np.lexsort((domain, (place + 0.5) / shares[domain]))        # ties go to the domain named first
    return low, domain[order], place[order]
