"""The report as Markdown: readable by itself, figures by relative links."""

from collections.abc import Mapping, Sequence

from autoquant.core.hypervolume import ModeYield
from autoquant.core.rehearsal import REHEARSED_SAMPLES
from autoquant.report.distribution import find_symmetries, tabulate_clipping
from autoquant.report.document import StudyReport
from autoquant.report.grid import LOSS_COLUMNS, describe_seconds, describe_weights, tabulate_losses
from autoquant.report.noise_figure import tabulate_noise
from autoquant.report.row import find_targets, format_drop, tabulate_trials
from autoquant.report.sensitivity import SENSITIVITY_COLUMNS, describe_base, tabulate_sensitivity

__all__ = ["MODE_COLUMNS", "Links", "tabulate_modes", "write_markdown"]

# of a figure, by its name: the picture, or None, and the interactive page
Links = Mapping[str, tuple[str | None, str]]

MODE_COLUMNS = ("mode", "trials", "time", "hypervolume gained", "per minute")
_LOSSES = (
    "Drops are points below the float model on the same images, with half the width of the "
    "paired 95 % interval; a minus is a gain. The search split chooses, the report split chooses "
    "nothing. `quantize` is calibration, rounding and corrections, `train` what training takes "
    "on top. Training images are those of one epoch, up to a whole batch. 8-bit weights always "
    "go to the nearest point, so learned rounding is 4 bits alone. A dash is what was not "
    "measured."
)
_CALIBRATION = (
    "Everything but the number of calibration images as in the table above. The images of a "
    "smaller number are not always among those of a larger one."
)
_TRAINING = (
    f"Accuracy of the model in training at the end of an epoch, on about the first "
    f"{REHEARSED_SAMPLES} images of the search split: a proxy, since no file is written for it. "
    "Dotted levels are finished files without training on the same images. Minutes are those of "
    "the whole training, spread evenly over its steps."
)
_NOISE = (
    "e = x - Q(x), as the power of x over that of e (SQNR, decibels; more is better), for the "
    "float weights against those of the file, and for the output of each layer in the float "
    "file against the same in the quantized file, the errors of all layers before it included, "
    "on one batch of the search split."
)
_RANGES = (
    "Float weights and, over the calibration images, what each layer reads, with the ends of the "
    "grids that the quantizers of a recipe with that method get. A value is clipped that lies "
    "more than half a step beyond an end; of weights, `distributions.csv` has it too. The table "
    "is the clipped share of the input, {symmetry} grids."
)
_MODES = (
    "The box is spanned by the float model and what is better: latency and size as a share of "
    "float's, the drop as a share of the allowed one (ten points where none is set; where it is "
    "no drop or a gain, from one point better). All of it is 1. Each trial is credited with what "
    "it added when it came, by point estimates."
)


def write_markdown(report: StudyReport, links: Links) -> str:
    """The whole document.

    Args:
        report: what to say.
        links: figures that were written, relative to the document.
    """
    sections = [
        f"# {report.study}: PTQ against QAT",
        f"Task `{report.task}`, {len(report.trials)} trials.",
        "## Advice",
        "\n\n".join(report.advice),
        "## What each cell loses, takes and needs",
        _table(LOSS_COLUMNS, tabulate_losses(report.rows)),
        _LOSSES,
        _figure(links, "losses"),
        *_section("Calibration images", _CALIBRATION, _calibration(report), links, "calibration"),
        *_section("Minutes of training", _TRAINING, "", links, "training"),
        *_noise(report, links),
        *_ranges(report, links),
        *_sensitivity(report, links),
        "## What each mode bought",
        _table(MODE_COLUMNS, tabulate_modes(report.yields)),
        _MODES,
        *_front(report, links),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def tabulate_modes(yields: Sequence[ModeYield]) -> list[list[str]]:
    """Cells of a table; see `MODE_COLUMNS`."""
    return [
        [
            item.mode,
            str(item.trials),
            describe_seconds(item.seconds) if item.trials else "-",
            f"{item.gained:.4f}" if item.trials else "-",
            "-" if item.gained_per_minute is None else f"{item.gained_per_minute:.4f}",
        ]
        for item in yields
    ]


def _section(title: str, words: str, table: str, links: Links, name: str) -> list[str]:
    """A section whose figure was written; nothing where there is none."""
    return [f"## {title}", words, table, _figure(links, name)] if name in links else []


def _calibration(report: StudyReport) -> str:
    """A row a cell of the curve, a column a number of images."""
    points = [p for p in report.points if p.cell.granularity == "per_channel"]
    curves = {(p.cell.weight_bits, p.cell.method) for p in points if p.cell.training is None}
    counts = sorted({p.calibration_images for p in points if p.cell.training is None})
    drops = {
        (p.cell.weight_bits, p.cell.method, p.calibration_images): format_drop(
            p.trial.accuracy_drop, p.trial.accuracy_drop_ci
        )
        for p in points
        if p.cell.training is None
    }
    rows = [
        [
            f"{describe_weights(bits, 'per_channel')}, {method}",
            *(drops.get((bits, method, count), "-") for count in counts),
        ]
        for bits, method in sorted(curves, key=lambda item: (-item[0], item[1]))
    ]
    return _table(["drop, search", *(f"{count:,}" for count in counts)], rows)


def _noise(report: StudyReport, links: Links) -> list[str]:
    title = "## Quantization noise by layer"
    if not report.noises:
        return [title, f"Left out: {report.left_out}."] if report.left_out else []
    figures = [_figure(links, name) for name in links if name.startswith("noise_")]
    left_out = f"Left out: {report.left_out}." if report.left_out else ""
    return [title, _NOISE, left_out, *figures, _table(*tabulate_noise(report.noises))]


def _ranges(report: StudyReport, links: Links) -> list[str]:
    title = "## Ranges by layer"
    found = report.distributions
    if found is None:
        return [title, f"Left out: {report.unseen}."] if report.unseen else []
    names = [n for n in links if n in ("distributions", "weight_grids") or n.startswith("ranges_")]
    figures = [_figure(links, name) for name in names]
    symmetries = find_symmetries(found)
    if not symmetries:  # no layer of this network takes its input on a grid
        return [title, *figures]
    table = _table(*tabulate_clipping(found, symmetries[0]))
    return [title, _RANGES.format(symmetry=symmetries[0]), *figures, table]


def _sensitivity(report: StudyReport, links: Links) -> list[str]:
    found = report.sensitivity
    if found is None:
        return []
    table = _table(SENSITIVITY_COLUMNS, tabulate_sensitivity(found))
    return _section("Sensitivity by layer", describe_base(found), table, links, "sensitivity")


def _front(report: StudyReport, links: Links) -> list[str]:
    members = ", ".join(str(trial.number) for trial in report.front) or "none"
    return [
        "## The front and all trials",
        f"On the front: {members}. Latency is a multiple of the float model's"
        f"{_name_target(report)}.",
        _figure(links, "front"),
        _table(*tabulate_trials(report.trials)),
    ]


def _name_target(report: StudyReport) -> str:
    targets = find_targets(report.trials)
    return f", in the figure on target {targets[0]}" if targets else ""


def _figure(links: Links, name: str) -> str:
    if name not in links:
        return ""
    picture, page = links[name]
    if picture is None:
        return f"Figure: [{name}]({page})"
    return f"[![{name}]({picture})]({page})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(_escape, line))} |" for line in lines)


def _escape(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")
