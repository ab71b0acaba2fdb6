"""How every figure looks."""

import plotly.graph_objects as go

__all__ = ["ACCENT", "BASELINE", "INK", "lay_out", "lay_out_panels", "take_title_off"]

INK, ACCENT, BASELINE = "#1b1f24", "#0b6bcb", "#b4540a"


def lay_out(figure: go.Figure, title: str) -> None:
    """Give a figure its title, font, legend and margins.

    Args:
        figure: changed in place.
        title: what the reader is to take away.
    """
    figure.update_layout(
        title={"text": title, "x": 0.02, "font": {"size": 18}},
        template="plotly_white",
        font={"family": "DejaVu Sans, Arial, sans-serif", "size": 14, "color": INK},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"l": 80, "r": 40, "t": 110, "b": 70},
    )


def lay_out_panels(figure: go.Figure, title: str, height: int, right: int = 40) -> None:
    """The same for panels with names of their own: title, legend, names, from the top.

    Args:
        figure: changed in place.
        title: what the reader is to take away.
        height: of the whole, pixels.
        right: margin, pixels.
    """
    lay_out(figure, title)
    figure.update_layout(
        height=height,
        title={"y": 1 - 22 / height, "yref": "container", "yanchor": "top"},
        legend={"y": 1 - 56 / height, "yref": "container", "yanchor": "top"},
        margin={"t": 122, "r": right},
    )


def take_title_off(figure: go.Figure) -> None:
    """Leave title, colours and font to a page that has a heading and themes of its own.

    Args:
        figure: changed in place; a legend that stood below the title moves up.
    """
    figure.update_layout(title=None, template=None, font=None)
    if figure.layout.legend.yref == "container":
        top = 1 - 6 / figure.layout.height
        figure.update_layout(legend={"y": top, "yanchor": "top"}, margin={"t": 74})
