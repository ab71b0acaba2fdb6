"""`Sensitivity`: what each choice of each layer costs and buys, measured one layer at a time."""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from autoquant.core.noise import Z95, Interval

__all__ = ["ChoiceCost", "Proxy", "Sensitivity", "SensitivityBase"]

Proxy = Literal["kl", "noise"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChoiceCost(_Record):
    """One layer at one choice, every other layer at 8 bits; all figures against all at 8 bits.

    Attributes:
        layer: its name.
        choice: as in a search space: `4`, `float`, `8:dynamic`.
        extra_drop: accuracy lost on the samples, a fraction; a gain is negative.
        extra_drop_ci: 95 % interval, paired.
        proxy: by how much the outputs part further from the float model's; not accuracy.
        bytes_saved: by the file; negative where it grows.
        latency_change: by the runtime's profiler, as a share of the float model's time; zero where
            the same kernels run, None where nothing was profiled.
        error: why there are no figures; None if there are.
    """

    layer: str
    choice: str
    extra_drop: float | None = None
    extra_drop_ci: Interval | None = None
    proxy: float | None = None
    bytes_saved: int | None = None
    latency_change: float | None = None
    error: str | None = None


class SensitivityBase(_Record):
    """Every layer at 8 bits: what the others are compared with.

    Attributes:
        accuracy: on the samples.
        accuracy_drop: against float, on the same.
        proxy: distance of its outputs from the float model's.
        size_bytes: of the file.
        latency_ratio: by the runtime's profiler, over the float model.
    """

    accuracy: float
    accuracy_drop: float
    proxy: float
    size_bytes: int
    latency_ratio: float | None = None


class Sensitivity(_Record):
    """What was measured of one task on one runtime.

    Attributes:
        task: its name.
        key: what the figures depend on: digests of weights and data, versions, machine.
        samples: of the search split that were looked at, the first ones.
        reduce_range: whether 8-bit weights use 7 bits.
        proxy: what `proxy` figures are: `kl`, the mean Kullback-Leibler divergence of the class
            probabilities, or `noise`, the power of the outputs' error over that of the outputs.
        base: every layer at 8 bits.
        costs: one a layer and choice, in network order.
        seconds: that measuring took, all sittings together.
    """

    version: Literal[1] = 1
    task: str
    key: dict[str, Any]
    samples: int
    reduce_range: bool
    proxy: Proxy
    base: SensitivityBase
    costs: tuple[ChoiceCost, ...] = ()
    seconds: float = 0.0

    @cached_property
    def by_choice(self) -> Mapping[tuple[str, str], ChoiceCost]:
        """Costs by layer and choice, those that failed left out."""
        return {(cost.layer, cost.choice): cost for cost in self.costs if cost.error is None}

    @cached_property
    def drop_per_proxy(self) -> float:
        """Accuracy lost for each unit of the proxy: least squares through the origin.

        Single drops are a few images wide; the proxy sees every output, and its order of layers
        is far less noisy. No less than half its own standard error: that no image was lost does
        not say that none will be.
        """
        seen = [cost for cost in self.by_choice.values() if cost.extra_drop is not None]
        proxies = np.array([cost.proxy or 0.0 for cost in seen])
        drops = np.array([cost.extra_drop or 0.0 for cost in seen])
        power = float(proxies @ proxies)
        if not power:
            return 0.0
        widths = [high - low for low, high in (cost.extra_drop_ci or (0.0, 0.0) for cost in seen)]
        error = float(np.median(widths)) / (2 * Z95) / math.sqrt(power)
        return max(float(proxies @ drops) / power, 0.5 * error)

    def expected_drop(self, layer: str, choice: str) -> float | None:
        """Accuracy that a choice is expected to cost, by the proxy; None where nothing is known."""
        cost = self.by_choice.get((layer, choice))
        if cost is None or cost.proxy is None:
            return None
        return self.drop_per_proxy * cost.proxy
