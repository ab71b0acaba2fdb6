"""`Contrast`: by how much recipes would differ from one recipe, by what a study's trials teach."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from autoquant.core.explanation import ModelTrust
from autoquant.core.layer import Layer
from autoquant.core.space import SearchSpace
from autoquant.core.trial import Trial
from autoquant.search.features import Features
from autoquant.search.history import History, Row
from autoquant.search.outlook import Outlook, correlate_ranks
from autoquant.search.prior import Knowledge
from autoquant.search.surrogate import Additive

__all__ = ["Contrast", "Differences", "fill_in"]

Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_ROWS = 300  # that sizes and latencies are fitted to
_JUDGED, _FEWEST = 30, 8  # trials by which the model is judged
_LATENCY_NOISE = 0.01
# of the float model's size: what does not add up, from a few bytes of alignment to kilobytes that
# runtimes take around float layers; the trials decide
_SIZE_NOISES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
_OPTION_SIZE = 2e-3


def fill_in(knowledge: Knowledge, space: SearchSpace, trials: Sequence[Trial]) -> Knowledge:
    """Layers as the sizes of the trials say, of a study from before layers were kept.

    A file is a constant and, for each layer, its weights times their width; what each layer
    computes, and how much, nothing tells, so all are taken for alike.

    Args:
        knowledge: what was kept.
        space: of the study.
        trials: with files.
    """
    if knowledge.layers:
        return knowledge
    names = list(space.layers)
    seen = [
        t for t in trials if t.size_bytes and (t.name == "fp32" or set(t.recipe.layers) == {*names})
    ]
    widths = [[(t.recipe.layers.get(name) or 32) / 8 for name in names] for t in seen]
    parameters = np.ones(len(names))
    if seen:
        features = np.column_stack([np.ones(len(seen)), np.array(widths)])
        # of layers that always change together, each is given the same share
        found, *_ = np.linalg.lstsq(features, np.array([float(t.size_bytes or 0) for t in seen]))
        parameters = np.maximum(found[1:], 1.0)
    layers = tuple(
        Layer(name, "conv", round(count), 1, order)
        for order, (name, count) in enumerate(zip(names, parameters, strict=True))
    )
    return replace(knowledge, layers=layers)


@dataclass(frozen=True)
class Differences:
    """Of several recipes from one, (n,) each.

    Attributes:
        drop: of the accuracy drop, fractions.
        drop_se: its standard error, as the model was off in this study.
        size_bytes: of the file.
        latency: of the latency ratio; None where nothing was timed.
    """

    drop: Floats
    drop_se: Floats
    size_bytes: Floats
    latency: Floats | None


class Contrast:
    """The models of the search, and one of the size that is exact where sizes add up.

    Args:
        features: of the space.
        history: the study's trials.
    """

    def __init__(self, features: Features, history: History) -> None:
        self.features = features
        self.outlook = Outlook(features, features.knowledge)
        self.outlook.update(history)
        usable = [row for row in history.rows.values() if row.is_usable][-_ROWS:]
        self._sized = [row for row in usable if row.size is not None]
        self._timed = [row for row in usable if row.latency is not None]
        self._size, self._size_errors = self._fit_size()

    def compare(self, codes: Codes, base: Codes) -> Differences:
        """Recipes against one.

        Args:
            codes: (n, p).
            base: (1, p).
        """
        outlook = self.outlook
        change, error = outlook.loss.compare(codes, base)
        start, _ = outlook.loss.predict(base)
        drop = outlook.unbend(start + change) - outlook.unbend(start)
        # a loss that is counted by its logarithm is as unsure in proportion
        stretch = np.maximum(1.0, np.abs(drop) / np.maximum(np.abs(change), 1e-12))
        moved = outlook.cost_features(codes) - outlook.cost_features(base)
        return Differences(
            drop,
            error * stretch * outlook.inflation,
            outlook.full_size * self._size.predict(moved),
            outlook.latency.predict(moved) if self._timed else None,
        )

    @property
    def layer_bytes(self) -> Floats:
        """(l,) what each column of a layer adds to the file, as the sizes of the trials say."""
        start = 1  # behind the constant
        found = self._size.weights[start : start + len(self.features.pairs)]
        return np.asarray(self.outlook.full_size * found)

    def judge(self) -> ModelTrust:
        """How good the models were in this study, each trial predicted from all others."""
        loss, outlook = self.outlook.loss, self.outlook
        latency_errors = self._latency_errors()
        plain = ModelTrust(
            trials=len(loss.codes),
            judged=0,
            is_lost=outlook.is_lost,
            size_error_bytes=_mean_square(self._size_errors * outlook.full_size),
            latency_error=_mean_square(latency_errors),
        )
        near = np.flatnonzero(loss.losses <= 2 * outlook.worst)[-_JUDGED:]
        if len(near) < _FEWEST:
            return plain
        expected, measured = loss.leave_one_out()[0][near], loss.losses[near]
        is_telling = np.ptp(expected) > 0 and np.ptp(measured) > 0
        changes = {
            "judged": len(near),
            "drop_error": _mean_square(measured - expected),
            "drop_spread": float(np.std(measured)),
            "rank_correlation": correlate_ranks(expected, measured) if is_telling else None,
        }
        return plain.model_copy(update=changes)

    def _fit_size(self) -> tuple[Additive, Floats]:
        """The model of the size, and by how much each trial's would have been misjudged."""
        full, options = self.outlook.full_size, len(self.features.option_columns)
        expected = self.features.bytes / full
        typical = float(np.abs(expected).mean()) if len(expected) else 0.0
        doubt = 0.05 * (np.abs(expected) + 0.2 * typical) + 1e-5
        sizes = np.array([(row.size or 0) / full for row in self._sized])
        model = Additive(
            np.concatenate([sizes[:1] if len(sizes) else [0.3], expected, np.zeros(options)]),
            np.concatenate([[0.3], doubt, np.full(options, _OPTION_SIZE)]),
        )
        if not len(sizes):
            return model, sizes
        features = self._costs(self._sized)
        tried = [
            (model.leave_one_out(features, sizes, noise), noise)
            for noise in (np.full(len(sizes), level) for level in _SIZE_NOISES)
        ]
        errors, noise = min(tried, key=lambda item: float(item[0] @ item[0]))
        return model.fit(features, sizes, noise), errors

    def _latency_errors(self) -> Floats:
        if not self._timed:
            return np.empty(0)
        ratios = np.array([row.latency or 0.0 for row in self._timed])
        model, noise = self.outlook.latency_prior(ratios[0]), np.full(len(ratios), _LATENCY_NOISE)
        return model.leave_one_out(self._costs(self._timed), ratios, noise)

    def _costs(self, rows: Sequence[Row]) -> Floats:
        codes = np.array([row.code for row in rows], dtype=np.int64)
        return self.outlook.cost_features(codes.reshape(len(rows), -1))


def _mean_square(errors: Floats) -> float | None:
    """Root of the mean square; None of nothing."""
    return float(np.sqrt(np.mean(errors**2))) if len(errors) else None
