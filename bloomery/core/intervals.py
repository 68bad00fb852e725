"""How far a measured share can be trusted: Wilson's score interval.

    p +- z sqrt(p (1 - p) / n)     solved for the true p instead of the measured one, so that it stays inside [0, 1] and
                                   says something where no or every trial was a success (Wilson 1927, JASA 22)
"""

import math
from statistics import NormalDist


def wilson(successes: float, trials: float, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of a share that is `successes / trials`; a tie may count half. Of no trial it is 0 to 1."""
    if not 0 <= successes <= trials or not 0 < confidence < 1:
        raise ValueError(f"0 <= successes <= trials and 0 < confidence < 1 are needed, got {successes}, {trials} and "
                         f"{confidence}")
    if not trials:
        return 0.0, 1.0
    z, p = NormalDist().inv_cdf((1 + confidence) / 2), successes / trials
    middle, scale = p + z * z / (2 * trials), 1 + z * z / trials
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials))
    return (middle - half) / scale if successes else 0.0, (middle + half) / scale if successes < trials else 1.0
