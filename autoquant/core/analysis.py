"""The grid of the accuracy-loss study: what each width, granularity and method costs and loses.

Every cell is an ordinary recipe with one width for all layers and everything else at its
default, so trials of a search and those that the study adds are told apart by nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from autoquant.core.recipe import PtqOptions, QatOptions, Recipe, WeightBits

__all__ = ["CALIBRATION_IMAGES", "METHODS", "Cell", "Granularity", "LossMethod", "plan_cells"]

Granularity = Literal["per_channel", "per_tensor"]
# `nearest` rounds, `bias-corrected` corrects the biases as well, `learned` learns the rounding
# of whole blocks, `qat` trains what `bias-corrected` made.
LossMethod = Literal["nearest", "bias-corrected", "learned", "qat"]

METHODS: tuple[LossMethod, ...] = ("nearest", "bias-corrected", "learned", "qat")
CALIBRATION_IMAGES = (10, 32, 100, 320, 1000)
_GRANULARITIES: tuple[Granularity, ...] = ("per_channel", "per_tensor")
_WIDTHS: tuple[WeightBits, ...] = (8, 4)
_DEFAULT_IMAGES = PtqOptions().calibration_images


@dataclass(frozen=True)
class Cell:
    """One point of the grid.

    Attributes:
        weight_bits: of every layer.
        granularity: one weight scale a layer, or one an output channel.
        method: how the weights came onto their grid.
        calibration_images: at most so many calibrate.
        training: how it is trained; None without training.
        reduce_range: 8-bit weights use 7 bits, for processors whose sums saturate.
    """

    weight_bits: WeightBits
    granularity: Granularity
    method: LossMethod
    calibration_images: int = _DEFAULT_IMAGES
    training: QatOptions | None = None
    reduce_range: bool = False

    @classmethod
    def of(cls, recipe: Recipe) -> "Cell | None":
        """The cell that a recipe is; None if it is none: mixed widths, or other options."""
        widths = set(recipe.layers.values())
        width = next(iter(widths), None)
        if recipe.options is None or width is None or len(widths) > 1:
            return None
        options = recipe.options
        cell = cls(
            width,
            options.weight_granularity,
            _method_of(options),
            options.calibration_images,
            options.qat,
            options.reduce_range,
        )
        return cell if cell.to_recipe(list(recipe.layers)) == recipe else None

    def to_recipe(self, layers: Sequence[str]) -> Recipe:
        """The recipe of this cell for a network of these layers."""
        is_learned = self.method == "learned"
        options = PtqOptions(
            weight_granularity=self.granularity,
            calibration_images=self.calibration_images,
            bias_correction=self.method != "nearest",
            reduce_range=self.reduce_range,
            rounding="learned" if is_learned else "nearest",
            rounding_scope="block" if is_learned else "layer",
            mode="ptq" if self.training is None else "qat",
            qat=self.training,
        )
        return Recipe.uniform(list(layers), self.weight_bits, options)


def plan_cells(
    calibration_images: int, training: QatOptions | None, *, is_exact: bool = True
) -> list[Cell]:
    """The cells of the study, cheap ones first.

    Args:
        calibration_images: how many the task has.
        training: how to train; None where there is no training data.
        is_exact: the processor adds 8-bit products without saturating; where it does not,
            8-bit weights use 7 bits.

    Returns:
        Each width and granularity by each method that means something there (8-bit weights
        always go to the nearest point), then the same network calibrated with other numbers of
        images, per channel.
    """
    untrained: list[Cell] = []
    trained: list[Cell] = []
    for bits in _WIDTHS:
        for granularity in _GRANULARITIES:
            methods = METHODS[:3] if bits == 4 else METHODS[:2]
            untrained += [Cell(bits, granularity, method) for method in methods]
            if training is not None:
                trained.append(Cell(bits, granularity, "qat", training=training))
    cells = [*untrained, *_plan_calibration(calibration_images), *trained]
    return [replace(cell, reduce_range=cell.weight_bits == 8 and not is_exact) for cell in cells]


def _plan_calibration(available: int) -> list[Cell]:
    """Fewer and more images than the grid takes, which are all there are or the default."""
    taken = min(_DEFAULT_IMAGES, available)
    counts = [count for count in CALIBRATION_IMAGES if count <= available and count != taken]
    return [
        Cell(bits, "per_channel", method, count)
        for count in counts
        for bits in _WIDTHS
        for method in (METHODS[1:3] if bits == 4 else METHODS[1:2])
    ]


def _method_of(options: PtqOptions) -> LossMethod:
    if options.qat is not None:
        return "qat"
    if options.rounding == "learned":
        return "learned"
    return "bias-corrected" if options.bias_correction else "nearest"
