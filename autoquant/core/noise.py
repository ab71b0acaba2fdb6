"""How far two timings of one file may lie apart. Needs the standard library alone."""

import math

__all__ = ["Z95", "log_sd", "ratios_agree"]

Interval = tuple[float, float]

Z95 = 1.959963984540054


def log_sd(interval: Interval | None) -> float:
    """Standard error of a ratio's logarithm, from its 95 % interval; 0 without one."""
    if interval is None or interval[0] <= 0:
        return 0.0
    low, high = interval
    return math.log(high / low) / (2 * Z95)


def ratios_agree(one: float, one_ci: Interval | None, other: float, other_ci: Interval) -> bool:
    """Whether two timings may be of the same ratio, at 95 %."""
    error = math.hypot(log_sd(one_ci), log_sd(other_ci))
    return abs(math.log(one / other)) <= Z95 * error
