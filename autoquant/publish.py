"""A study's report as a folder: a document, tables as CSV, figures as pages and pictures."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from autoquant.core.activity import announce
from autoquant.errors import StorageError
from autoquant.report import flatten_trials
from autoquant.report.distribution import flatten_distributions
from autoquant.report.document import StudyReport
from autoquant.report.markdown import write_markdown
from autoquant.report.noise_figure import tabulate_noise
from autoquant.report.sensitivity import SENSITIVITY_COLUMNS, tabulate_sensitivity

__all__ = ["Published", "publish_report"]

_WIDTH_PX, _HEIGHT_PX, _SCALE = 1000, 560, 2
_HOW = 'pip install -e ".[figures]" and a Chromium or Chrome (BROWSER_PATH names it)'


@dataclass(frozen=True)
class Published:
    """What was written.

    Attributes:
        files: all of them, the document first.
        pictures: why there are no PNG files and how to get them; None if there are.
    """

    files: tuple[Path, ...]
    pictures: str | None


def publish_report(report: StudyReport, folder: Path) -> Published:
    """Write a report; what a former one left under the same names is replaced.

    Args:
        report: what to say.
        folder: where; it is made.

    Raises:
        StorageError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return _publish(report, folder)
    except OSError as error:
        raise StorageError(
            f"cannot write to '{folder}' ({error.strerror or error}); choose another folder: -o"
        ) from error


def _publish(report: StudyReport, folder: Path) -> Published:
    figures = report.figures()
    pages = [_write_page(figure, folder / f"{name}.html") for name, figure in figures.items()]
    # a picture of what is chosen from a list would show its first entry alone
    still = {name: figure for name, figure in figures.items() if not figure.layout.updatemenus}
    problem, pictures = _write_pictures(still, folder)
    drawn = {path.stem for path in pictures}
    links = {name: (f"{name}.png" if name in drawn else None, f"{name}.html") for name in figures}
    document = folder / "report.md"
    document.write_text(write_markdown(report, links), encoding="utf-8")
    tables = [
        _write_csv(folder / f"{name}.csv", columns, rows)
        for name, (columns, rows) in _tables(report).items()
    ]
    return Published((document, *tables, *pages, *pictures), problem)


def _write_page(figure: go.Figure, path: Path) -> Path:
    """All pages of a folder share one copy of plotly.js, which lies beside them."""
    figure.write_html(path, include_plotlyjs="directory")
    return path


def _write_pictures(
    figures: Mapping[str, go.Figure], folder: Path
) -> tuple[str | None, list[Path]]:
    """PNG files, or why there are none."""
    for name in figures:
        (folder / f"{name}.png").unlink(missing_ok=True)  # of a former report
    if find_spec("kaleido") is None:
        return f"no PNG files: they need {_HOW}", []
    written: list[Path] = []
    for name, figure in figures.items():
        announce(f"drawing {name}.png")
        path = folder / f"{name}.png"
        height = figure.layout.height or _HEIGHT_PX
        try:
            figure.write_image(path, width=_WIDTH_PX, height=height, scale=_SCALE)
        except Exception as error:  # kaleido has no browser, or the browser does not start
            for picture in written:
                picture.unlink()
            reason = (str(error).splitlines() or [""])[0]
            return f"no PNG files ({type(error).__name__}: {reason}): they need {_HOW}", []
        written.append(path)
    return None, written


def _tables(report: StudyReport) -> dict[str, tuple[Sequence[str], Sequence[Sequence[str]]]]:
    document = report.to_dict()
    tables: dict[str, tuple[Sequence[str], Sequence[Sequence[str]]]] = {
        "losses": _from_records(document["cells"]),
        "calibration": _from_records(document["calibration"]),
        "training": _from_records(document["training"]),
        "modes": _from_records(document["modes"]),
        "noise": tabulate_noise(report.noises),
        "distributions": flatten_distributions(report.distributions),
        "sensitivity": (
            SENSITIVITY_COLUMNS,
            [] if report.sensitivity is None else tabulate_sensitivity(report.sensitivity),
        ),
        "trials": flatten_trials(report.trials),
    }
    return {name: table for name, table in tables.items() if table[1]}


def _from_records(records: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: text as it is, nothing for None, all else as JSON."""
    columns = list(records[0]) if records else []
    return columns, [[_to_text(record[name]) for name in columns] for record in records]


def _to_text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
    return path
