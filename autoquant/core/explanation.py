"""`Explanation`: why one recipe is as it is, layer by layer, in plain figures."""

from typing import Literal

from pydantic import BaseModel, ConfigDict

from autoquant.core.layer import LayerKind
from autoquant.core.noise import Interval
from autoquant.core.sensitivity import Proxy

__all__ = ["ChoiceEvidence", "Explanation", "LayerReason", "ModelTrust", "OptionReason", "Outcome"]

Source = Literal["estimate", "complete", "rejected", "failed"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ChoiceEvidence(_Record):
    """What was measured of one choice of one layer, all others at 8 bits; see `ChoiceCost`.

    Attributes:
        expected_drop: accuracy that it is expected to cost, a fraction, by the proxy.
        extra_drop: accuracy that it did cost on the samples; its interval is paired, 95 %.
        proxy: by how much the outputs part further from the float model's; not accuracy.
    """

    expected_drop: float
    extra_drop: float | None = None
    extra_drop_ci: Interval | None = None
    proxy: float


class Outcome(_Record):
    """The recipe with one decision changed, against the recipe that is explained.

    Attributes:
        choice: what the layer or option would be.
        source: `estimate` by the models; otherwise this very recipe was tried in the study, and
            the figures are those of that trial.
        trial: its number, where it was tried.
        drop_change: of the accuracy drop, a fraction; positive loses accuracy. Of a rejected
            trial, the drop seen until it was stopped, less that of the recipe; None if it failed.
        drop_change_se: standard error of an estimate, by the model.
        drop_change_ci: paired 95 % interval of a measured change; None where none is known.
        size_change_bytes: of the file.
        latency_change: of the latency ratio; None where nothing was timed.
        evidence: the sensitivity of this choice; None where it was not measured, or is 8 bits.
    """

    choice: str
    source: Source = "estimate"
    trial: int | None = None
    drop_change: float | None = None
    drop_change_se: float | None = None
    drop_change_ci: Interval | None = None
    size_change_bytes: int | None = None
    latency_change: float | None = None
    evidence: ChoiceEvidence | None = None


class LayerReason(_Record):
    """One layer of a recipe.

    Attributes:
        layer: its name.
        kind: what it computes; None where the record does not tell, and likewise `parameters`.
        parameters: number of weights and biases.
        choice: as in a search space: `4`, `8:dynamic`, `float`.
        evidence: the sensitivity of that choice; None where it was not measured, or is 8 bits.
        saved_bytes_to_8: what it saves against 8 bits.
        saved_bytes_to_float: the same against float.
        size_source: `file` where the sensitivity's files say so, `estimate` by the models.
        saved_us_to_8: microseconds against 8 bits, by the runtime's profiler; None where nothing
            was profiled.
        saved_us_to_float: the same against float.
        outcomes: every other choice that the layer could take, in the order of the space.
    """

    layer: str
    kind: LayerKind | None = None
    parameters: int | None = None
    choice: str
    evidence: ChoiceEvidence | None = None
    saved_bytes_to_8: int
    saved_bytes_to_float: int
    size_source: Literal["file", "estimate"]
    saved_us_to_8: float | None = None
    saved_us_to_float: float | None = None
    outcomes: tuple[Outcome, ...] = ()


class OptionReason(_Record):
    """One option of a recipe, for the whole network.

    Attributes:
        option: its name.
        value: as in a search space.
        outcomes: every other value that decides something else.
    """

    option: str
    value: str
    outcomes: tuple[Outcome, ...] = ()


class ModelTrust(_Record):
    """How good the estimates were in this study, each trial predicted from all others.

    Attributes:
        trials: that the model of the loss learned from.
        judged: the last of them near the allowed drop, by which it is judged.
        drop_error: root mean square error of a predicted drop, a fraction; None for too few.
        drop_spread: standard deviation of the drops themselves: what guessing would be off by.
        rank_correlation: of predicted and measured drops; None for too few.
        is_lost: the search mistrusts the model.
        size_error_bytes: root mean square error of a predicted size.
        latency_error: the same of a latency ratio; None where nothing was timed.
    """

    trials: int
    judged: int
    drop_error: float | None = None
    drop_spread: float | None = None
    rank_correlation: float | None = None
    is_lost: bool = False
    size_error_bytes: float | None = None
    latency_error: float | None = None


class Explanation(_Record):
    """Why a recipe: its layers in network order, its options, and what the figures rest on.

    Attributes:
        trial: number of the trial that is explained.
        is_trained: estimates are of the same recipes before training.
        proxy: what `proxy` figures are; None where no sensitivity was measured.
        sensitivity_samples: that sensitivities were measured on; None likewise.
        reference_ms: the float model's time, which microseconds are a share of.
        layers: in network order.
        options: those that have more than one value in the search space.
        trust: how good the model is.
    """

    version: Literal[1] = 1
    trial: int
    is_trained: bool
    proxy: Proxy | None = None
    sensitivity_samples: int | None = None
    reference_ms: float | None = None
    layers: tuple[LayerReason, ...]
    options: tuple[OptionReason, ...] = ()
    trust: ModelTrust
