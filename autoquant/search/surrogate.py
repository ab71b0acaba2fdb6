"""Models that learn from every trial: additive ones of latency and size, one of the loss."""

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoquant.search.features import Features

__all__ = ["Additive", "LossModel"]

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_LENGTH = 0.2  # of the kernel, as a share of all parameters
_JITTER = 1e-10


class Additive:
    """Linear in the features, each weight normal around what was expected of it.

    Args:
        means: (d,) expected weights.
        deviations: (d,) how far from that they may be.
    """

    def __init__(self, means: Floats, deviations: Floats) -> None:
        self.weights = means
        self.deviations = deviations

    def fit(self, features: Floats, values: Floats, noise: Floats) -> "Additive":
        """Weights given what was measured.

        Args:
            features: (n, d).
            values: (n,).
            noise: (n,) standard errors of the values.
        """
        if not len(values):
            return self
        covariance = self._covariance(features, noise)
        residuals = values - features @ self.weights
        correction = (features * self.deviations).T @ np.linalg.solve(covariance, residuals)
        self.weights = self.weights + self.deviations * correction
        return self

    def leave_one_out(self, features: Floats, values: Floats, noise: Floats) -> Floats:
        """By how much each value would have been misjudged from all others, (n,); before `fit`."""
        inverse = np.linalg.inv(self._covariance(features, noise))
        return np.asarray(inverse @ (values - features @ self.weights) / np.diag(inverse))

    def predict(self, features: Floats) -> Floats:
        """(n,) expected values."""
        return np.asarray(features @ self.weights)

    def _covariance(self, features: Floats, noise: Floats) -> Floats:
        scaled = features * self.deviations
        return np.asarray(scaled @ scaled.T + np.diag(noise**2 + _JITTER))


@dataclass(frozen=True)
class _Scales:
    """What the likelihood decides on.

    Attributes:
        layers: how far a layer's cost may be from what is expected, in units of that.
        kernel: size of what is not additive, in units of the loss.
        noise: of a measured loss, likewise.
    """

    layers: float
    kernel: float
    noise: float


_GRID = [_Scales(*item) for item in itertools.product((0.3, 1, 3), (0.03, 0.15, 0.5), (0.03, 0.12))]


class LossModel:
    """The loss of a recipe: what its layers cost, what its options cost, and a correction.

    A Gaussian process whose mean is the sum of the expected costs. Its covariance adds up an
    unknown factor of that sum, deviations of single layers and options, and an exponential
    kernel over the share of the parameters in which two recipes differ, which stands for all
    that is not additive. How large each is, the likelihood of the trials decides.

    Args:
        features: of the space.
        unit: a loss that matters, in whose units deviations are given.
        origin: the loss of what loses nothing.
    """

    def __init__(self, features: Features, unit: float, origin: float = 0.0) -> None:
        self.features = features
        self.unit = unit
        self.origin = origin
        self.means, self.deviations = self._expect()
        self.factor = 2.0 if np.isnan(features.drops).all() else 1.0
        self.codes: Codes = np.empty((0, len(features.names)), dtype=np.int64)
        self.scales = _GRID[len(_GRID) // 2]
        self.fitted_to = 0

    def fit(self, codes: Codes, losses: Floats, noise: Floats) -> None:
        """Learn from trials.

        Args:
            codes: (n, p).
            losses: (n,).
            noise: (n,) standard errors of the losses, beside those that all have.
        """
        self._take(codes, losses, noise)
        if len(codes) >= max(4, 1.1 * self.fitted_to) or len(codes) < self.fitted_to:
            self.scales = max(_GRID, key=self._likelihood)
            self.fitted_to = len(codes)
        self._solve()

    def believe(self, codes: Codes) -> None:
        """Take trials under way for finished, with the loss that is expected of them; after `fit`.

        The next proposal then looks where these will not have told. Ginsbourger et al. 2010,
        "Kriging is well-suited to parallelize optimization", doi:10.1007/978-3-642-10701-6_6,
        section 3.2, the kriging believer.

        Args:
            codes: (n, p).
        """
        mean, _ = self.predict(codes)
        self._take(
            np.vstack([self.codes, codes]),
            np.concatenate([self.losses, mean]),
            np.concatenate([self.noise, np.zeros(len(codes))]),
        )
        self._solve()

    def _take(self, codes: Codes, losses: Floats, noise: Floats) -> None:
        self.codes, self.losses, self.noise = codes, losses, noise
        self.layers, self.options = self.features.expand(codes)
        self.near = self._nearness(codes, codes)

    def _solve(self) -> None:
        self.inverse = np.linalg.inv(self._covariance(self.scales))
        self.pull = self.inverse @ self._residuals

    def predict(self, codes: Codes) -> tuple[Floats, Floats]:
        """Expected loss and its standard deviation, without the noise of a measurement, (n,)."""
        layers, options = self.features.expand(codes)
        mean = self.origin + layers @ self.means
        own = self._prior_variance(layers, options)
        if not len(self.codes):
            return mean, np.sqrt(own)
        shared = self._shared(codes, self.codes)
        variance = own - np.einsum("ij,jk,ik->i", shared, self.inverse, shared, optimize=True)
        return mean + shared @ self.pull, np.sqrt(np.maximum(variance, 1e-16))

    def compare(self, codes: Codes, base: Codes) -> tuple[Floats, Floats]:
        """By how much the loss of each recipe differs from that of one, and how surely, (n,).

        What two recipes have in common is uncertain in both and cancels: the error of a
        difference is far smaller than the errors of its ends say.

        Args:
            codes: (n, p).
            base: (1, p).
        """
        layers, options = self.features.expand(codes)
        start, begun = self.features.expand(base)
        mean = (layers - start) @ self.means
        variance = self._prior_variance(layers, options) + self._prior_variance(start, begun)
        variance = variance - 2 * self._shared(codes, base)[:, 0]
        if len(self.codes):
            moved = self._shared(codes, self.codes) - self._shared(base, self.codes)
            mean = mean + moved @ self.pull
            variance = variance - np.einsum("ij,jk,ik->i", moved, self.inverse, moved)
        return mean, np.sqrt(np.maximum(variance, 1e-16))

    def leave_one_out(self) -> tuple[Floats, Floats]:
        """What each trial's loss would have been taken for without it, and how surely, (n,)."""
        own = np.diag(self.inverse)
        return self.losses - self.pull / own, 1 / np.sqrt(own)

    def _expect(self) -> tuple[Floats, Floats]:
        """Of each layer column: what it costs, and how wrong that may be."""
        features, unit = self.features, self.unit
        narrow = features.is_narrow.astype(float)
        guess = narrow * unit / max(1.0, narrow.sum())
        means = np.where(np.isnan(features.drops), guess, features.drops)
        typical = float(np.abs(means).mean()) if len(means) else 0.0
        return means, np.abs(means) + 0.2 * typical + 1e-3 * unit

    @property
    def _residuals(self) -> Floats:
        return np.asarray(self.losses - self.origin - self.layers @ self.means)

    def _likelihood(self, scales: _Scales) -> float:
        """Logarithm of the likelihood of the losses, but for a constant."""
        try:
            root = np.linalg.cholesky(self._covariance(scales))
        except np.linalg.LinAlgError:
            return -np.inf
        white = np.linalg.solve(root, self._residuals)
        return float(-0.5 * white @ white - np.log(np.diag(root)).sum())

    def _covariance(self, scales: _Scales) -> Floats:
        """Of the trials, noise included, (n, n)."""
        linear = self._linear(self.layers, self.options, self.layers, self.options, scales)
        noise = (scales.noise * self.unit) ** 2 + self.noise**2 + _JITTER
        return np.asarray(linear + (scales.kernel * self.unit) ** 2 * self.near + np.diag(noise))

    def _linear(
        self,
        layers: Floats,
        options: Floats,
        others: Floats,
        other_options: Floats,
        scales: _Scales,
    ) -> Floats:
        """Covariance of what is additive, (n, m)."""
        sums, other_sums = layers @ self.means, others @ self.means
        deviations = (scales.layers * self.deviations) ** 2
        return np.asarray(
            (0.3 * self.unit) ** 2
            + self.factor**2 * np.outer(sums, other_sums)
            + (layers * deviations) @ others.T
            + (options * self._option_variance) @ other_options.T
        )

    @property
    def _option_variance(self) -> Floats:
        """(o,) of options alone, and of options where four bits are at stake."""
        half = len(self.features.option_columns)
        return np.repeat([(0.15 * self.unit) ** 2, (0.6 * self.unit) ** 2], half)

    def _shared(self, codes: Codes, others: Codes) -> Floats:
        """Covariance of two sets of recipes before any trial, (n, m)."""
        linear = self._linear(
            *self.features.expand(codes), *self.features.expand(others), self.scales
        )
        kernel = (self.scales.kernel * self.unit) ** 2
        return np.asarray(linear + kernel * self._nearness(codes, others))

    def _prior_variance(self, layers: Floats, options: Floats) -> Floats:
        scales = self.scales
        return np.asarray(
            (0.3 * self.unit) ** 2
            + self.factor**2 * (layers @ self.means) ** 2
            + layers**2 @ (scales.layers * self.deviations) ** 2
            + options**2 @ self._option_variance
            + (scales.kernel * self.unit) ** 2
        )

    def _nearness(self, codes: Codes, others: Codes) -> Floats:
        return np.asarray(np.exp(-self.features.distances(codes, others) / _LENGTH))
