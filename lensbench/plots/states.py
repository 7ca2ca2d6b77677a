"""Figures for the moments without data: nothing yet, no number in it, something went wrong."""

import textwrap

import plotly.graph_objects as go

from lensbench.plots.theme import PALETTE, dress


def empty_figure(message: str, *, next_step: str = "", height: int = 220) -> go.Figure:
    """Say what is missing and what to do next (a page shows the command too).

    Example:
        >>> figure = plots.empty_figure("No run yet", next_step="lensbench demo")
    """
    return _message("Nothing to draw yet", message, next_step, PALETTE[0], height)


def error_figure(message: str, *, next_step: str = "", height: int = 220) -> go.Figure:
    """Say what went wrong, in the words of the error.

    Example:
        >>> figure = plots.error_figure(
        ...     "The store is damaged", next_step="lensbench store verify acts"
        ... )
    """
    return _message("This could not be drawn", message, next_step, PALETTE[1], height)


def no_numbers(what: str, n: int, *, title: str = "", height: int = 220) -> go.Figure:
    """Say that all ``n`` values of ``what`` are NaN or infinite: an empty frame would say nothing.

    Example:
        >>> from lensbench.plots.states import no_numbers
        >>> figure = no_numbers("KL [nats]", 12)
    """
    message = f"All {n:,} values of {what} are NaN or infinite." if n > 1 else (
        f"The only value of {what} is NaN or infinite."
    )  # fmt: skip
    return _message("No number to draw", message, title, PALETTE[1], height)


def _message(head: str, message: str, next_step: str, colour: str, height: int) -> go.Figure:
    lines = [f"<b>{head}</b>", *textwrap.wrap(_plain(message), 90)]
    if next_step:
        lines.append(f"<i>{_plain(next_step)}</i>")
    figure = dress(go.Figure(), height=height)
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    figure.add_annotation(
        text="<br>".join(lines),
        x=0.5,
        y=0.5,
        xref="paper",
        yref="paper",
        showarrow=False,
        bordercolor=colour,
        borderpad=16,
        borderwidth=1,
    )
    return figure


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
