"""Figures that commands write."""

from pathlib import Path

import plotly.graph_objects as go

from autoquant.deliver import check_output
from autoquant.errors import InputError, StorageError

__all__ = ["check_page", "write_figure"]

_PAGES = (".html", ".png")


def check_page(path: Path) -> None:
    """Refuse a path that no figure can be written to.

    Raises:
        InputError: its folder is missing, or it is of another kind.
    """
    check_output(path, "-o ")
    if path.suffix not in _PAGES:
        raise InputError(f"-o {path}: a plot is a {' or a '.join(_PAGES)} file")


def write_figure(figure: go.Figure, path: Path, height: int) -> None:
    """Write a figure as a page or as a picture.

    Args:
        figure: to write.
        path: ends in .html or .png.
        height: of a picture, pixels.

    Raises:
        StorageError: it cannot be written.
        InputError: it cannot be drawn here.
    """
    try:
        if path.suffix == ".html":
            figure.write_html(path)
        else:
            figure.write_image(path, width=1000, height=height, scale=2)
    except OSError as error:
        raise StorageError(f"cannot write '{path}': {error.strerror or error}") from error
    except Exception as error:  # kaleido is missing, or has no browser
        reason = (str(error).splitlines() or [""])[0]
        raise InputError(
            f"cannot draw '{path}' ({reason}): write a .html file, or install the extra 'figures' "
            "and a Chromium"
        ) from error
