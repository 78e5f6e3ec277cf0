"""Figures by matplotlib, which is optional."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from graphopt.errors import UserError


def require_matplotlib() -> None:
    """Refuse to go on without matplotlib.

    Raises:
        UserError: says what to install.
    """
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise UserError(
            "matplotlib is not installed", code="no-matplotlib", hint='pip install matplotlib, or "graphopt[plot]"'
        )


def new_figure(width: float, height: float) -> Any:
    """An empty figure, of inches.

    Raises:
        UserError: matplotlib is missing.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure; the format follows the file's suffix.

    Raises:
        UserError: matplotlib doesn't know the format, or the file can't be written.
    """
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UserError(f"can't write {path}: {error}", code="bad-output", hint="name it FILE.png") from error
