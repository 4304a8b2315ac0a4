"""Plots of models on one holdout: precision and recall, ROC, calibration, savings by alert capacity, importances."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from fraud.stats.costs import Costs, saved_per_1000
from fraud.stats.metrics import Ranked, calibration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Named = Mapping[str, NDArray[np.floating]]
"""Probabilities by the name in the legend; the first is the candidate."""
_COLOURS: Final = ("#0b57d0", "#c5221f", "#5f6b7a", "#b06000", "#188038", "#8430ce")
_SHOWN: Final = 20
"""Features in the plot of importances."""
_STYLE: Final = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#8a94a3", "axes.labelcolor": "#3c4653", "xtick.color": "#5f6b7a", "ytick.color": "#5f6b7a",
    "axes.grid": True, "grid.color": "#e7ebf0", "axes.titlesize": 10, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "legend.frameon": False, "legend.fontsize": 8,
    "svg.hashsalt": "fraud", "svg.fonttype": "path",
}  # fmt: skip


def of_models(named: Named, amount: NDArray[np.float64], is_fraud: NDArray[np.bool_], costs: Costs) -> list[str]:
    """The four plots of models on the same rows, as SVG. `amount` in USD, [n]."""
    gains = costs.gains(amount, is_fraud)
    figures = (
        precision_recall(named, is_fraud), roc(named, is_fraud), calibrated(named, is_fraud),
        money(named, is_fraud, gains, costs),
    )  # fmt: skip
    return [svg(figure) for figure in figures]


def precision_recall(named: Named, is_fraud: NDArray[np.bool_]) -> "Figure":
    """Precision over recall. Without both classes, an empty plot with the reason."""
    if _one_class(is_fraud):
        return _nothing_to_draw("Precision over recall", is_fraud)

    def draw(axes: "Axes") -> None:
        for line, probability in _lines(named):
            recall, precision, _ = Ranked(probability, is_fraud).tally().curve()
            axes.plot(recall, precision, **line)
        axes.axhline(float(is_fraud.mean()), color="#8a94a3", linewidth=1, linestyle=":", label="random ranking")
        axes.set(title="Precision over recall", xlabel="share of frauds found", ylabel="share of alerts that are fraud")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))

    return _figure(draw)


def roc(named: Named, is_fraud: NDArray[np.bool_]) -> "Figure":
    """ROC curve. Without both classes, an empty plot with the reason."""
    if _one_class(is_fraud):
        return _nothing_to_draw("ROC", is_fraud)

    def draw(axes: "Axes") -> None:
        for line, probability in _lines(named):
            recall, _, false = Ranked(probability, is_fraud).tally().curve()
            axes.plot(np.append(0, false), np.append(0, recall), **line)
        axes.plot([0, 1], [0, 1], color="#8a94a3", linewidth=1, linestyle=":")
        axes.set(title="ROC", xlabel="share of legitimate payments alerted", ylabel="share of frauds found")
        axes.set(xlim=(0, 1), ylim=(0, 1.02))

    return _figure(draw)


def calibrated(named: Named, is_fraud: NDArray[np.bool_]) -> "Figure":
    """Observed over predicted fraud rates, on logarithmic axes. Without both classes, an empty plot with the reason."""
    if _one_class(is_fraud):
        return _nothing_to_draw("Calibration", is_fraud)

    def draw(axes: "Axes") -> None:
        for line, probability in _lines(named):
            _, bins = calibration(probability, is_fraud)
            shown = [(b.predicted, b.observed) for b in bins if b.predicted > 0 and b.observed > 0]
            if shown:
                axes.plot(*zip(*shown, strict=True), marker="o", markersize=4, **line)
        axes.set(
            xscale="log", yscale="log", title="Calibration", xlabel="predicted fraud rate", ylabel="observed fraud rate"
        )
        low = min(*axes.get_xlim(), *axes.get_ylim())
        axes.plot([low, 1], [low, 1], color="#8a94a3", linewidth=1, linestyle=":", label="perfect")

    return _figure(draw)


def money(named: Named, is_fraud: NDArray[np.bool_], gains: NDArray[np.float64], costs: Costs) -> "Figure":
    """USD saved per 1,000 transactions over the alert capacity. Without rows, an empty plot with the reason."""
    if not len(is_fraud):
        return _nothing_to_draw("Money saved", is_fraud)

    def draw(axes: "Axes") -> None:
        shares = np.linspace(0, 4 * costs.capacity, 41)
        for line, probability in _lines(named):
            ranked = Ranked(probability, is_fraud)
            saved = [saved_per_1000(gains, ranked.alerted(share)) for share in shares]
            axes.plot(1000 * shares, saved, **line)
        axes.axvline(1000 * costs.capacity, color="#8a94a3", linewidth=1, linestyle=":", label="capacity")
        axes.set(title="Money saved", xlabel="alerts per 1,000 transactions", ylabel="USD per 1,000 transactions")

    return _figure(draw)


def importance(features: Sequence[Mapping[str, Any]]) -> "Figure":
    """The loss of average precision by shuffling a feature, for the _SHOWN most important; lines show the spread."""
    shown = list(features)[:_SHOWN][::-1]

    def draw(axes: "Axes") -> None:
        axes.set(title="Loss of average precision by shuffling a feature", xlabel="average precision")
        axes.barh(
            [str(feature["name"]) for feature in shown], [float(feature["loss"]) for feature in shown],
            xerr=[float(feature["spread"]) for feature in shown], color=_COLOURS[0], height=0.7,
            error_kw={"ecolor": "#5f6b7a", "elinewidth": 1},
        )  # fmt: skip
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", labelsize=8)

    return _figure(draw, height=1.0 + 0.19 * max(len(shown), 6))


def svg(figure: "Figure") -> str:
    """The figure as an <svg> element. The same figure gives the same text."""
    import matplotlib as mpl  # noqa: PLC0415 - a second to import

    text = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _one_class(is_fraud: NDArray[np.bool_]) -> bool:
    return int(is_fraud.sum()) in (0, len(is_fraud))


def _nothing_to_draw(title: str, is_fraud: NDArray[np.bool_]) -> "Figure":
    def draw(axes: "Axes") -> None:
        axes.set(title=title, xticks=[], yticks=[])
        text = f"not measured: {int(is_fraud.sum()):,} frauds in {len(is_fraud):,} rows"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color="#5f6b7a")

    return _figure(draw)


def _lines(named: Named) -> list[tuple[dict[str, Any], NDArray[np.floating]]]:
    """Keyword arguments of each line. The candidate is drawn on top and thicker."""
    return [
        (
            {"label": name, "color": _COLOURS[i % len(_COLOURS)], "linewidth": 1.2 if i else 2.2, "zorder": 9 - i},
            probability,
        )
        for i, (name, probability) in enumerate(named.items())
    ]


def _figure(draw: Callable[["Axes"], None], height: float = 3.4) -> "Figure":
    import matplotlib as mpl  # noqa: PLC0415 - a second to import
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.8, height), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        if axes.get_legend_handles_labels()[1]:
            axes.legend()
    return figure
