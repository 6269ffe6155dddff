"""Figures: learning curves, robustness maps, posteriors, the stages of an adaptation, returns.

Every figure is drawn for a theme, light or dark, on matplotlib's object interface: nothing global
is read or changed. Units stand on the axes, intervals are bands or bars of 95 %.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from sim2real.adaptation.belief import Believed
from sim2real.compare import Table
from sim2real.dynamics.parameter import Parameter
from sim2real.evaluate import Interval, RobustnessMap, bootstrap
from sim2real.identification.posterior import Posterior
from sim2real.localization.attribution import Attribution
from sim2real.localization.findings import Localization, Map
from sim2real.policy.spec import ParameterInfo
from sim2real.simulation.robot import Robot
from sim2real.types import Array, InputError, nearest

DPI = 160
X, Y = "time/total_timesteps", "rollout/ep_rew_mean"
"""The columns of Stable-Baselines3's progress.csv that make a learning curve."""


@dataclass(frozen=True)
class Theme:
    """Colours of one appearance. The hues are those of Okabe and Ito 2008, which people with any
    kind of colour vision tell apart; the dark theme has them lighter."""

    name: str
    background: str
    text: str
    faint: str
    """Grids and frames."""
    band: str
    """Ranges."""
    before: str
    after: str
    truth: str
    other: str


LIGHT = Theme("light", "#ffffff", "#1c2430", "#d5dae1", "#e9edf2",
              before="#d55e00", after="#0072b2", truth="#00875f", other="#7a8594")  # fmt: skip
DARK = Theme("dark", "#161b22", "#e3e8ee", "#39424e", "#232b35",
             before="#ff9147", after="#56b4e9", truth="#3fcf9f", other="#98a3b1")  # fmt: skip
THEMES = (LIGHT, DARK)


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=DPI)
    return out.getvalue()


def read_curve(path: str | Path) -> tuple[Array, Array]:
    """(n,) steps and (n,) mean return of the latest episodes, from SB3's progress.csv.

    Raises:
        InputError: there is no such file, or it has no such columns.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; training writes log/progress.csv into its folder")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        known = list(reader.fieldnames or [])
        for column in (X, Y):
            if column not in known:
                raise InputError(f"{path}: no column '{column}'{nearest(column, known)}")
        points: list[tuple[float, float]] = []
        for row in reader:
            try:
                points.append((float(row[X]), float(row[Y])))
            except (TypeError, ValueError):
                continue  # a blank cell before the first episode ended, or a line cut short
    finite = np.array([p for p in points if all(map(math.isfinite, p))]).reshape(-1, 2)
    return finite[:, 0], finite[:, 1]


def draw_curves(curves: Mapping[str, tuple[Array, Array]], theme: Theme) -> Figure:
    """Label -> (steps, return), in one picture."""
    figure, (axes,) = _figure(theme, 7.2, 3.2)
    fill_curves(axes, curves, theme)
    return figure


def fill_curves(axes: Axes, curves: Mapping[str, tuple[Array, Array]], theme: Theme) -> None:
    """As `draw_curves`, into axes that are there."""
    colours = [theme.after, theme.other, theme.before, theme.truth]
    dashes = ["-", "--", "-.", ":"]
    for k, (label, (steps, value)) in enumerate(curves.items()):
        colour, dash = colours[k % 4], dashes[k // 4 % 4]
        axes.plot(steps, value, color=colour, linestyle=dash, linewidth=1.8, label=label)
        if len(steps):
            axes.plot(steps[-1], value[-1], "o", color=colour, markersize=4.5)
    axes.set_xlabel("control steps of training")
    axes.set_ylabel("return of training episodes")
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.set_xlim(left=0)
    _legend(axes, theme)


def draw_ranges(
    robot: Robot,
    trained: Sequence[ParameterInfo],
    posterior: Posterior | None,
    truth: Mapping[str, float],
    theme: Theme,
) -> Figure:
    """One panel a parameter: the range of training, the nominal value, what the logs say, and the
    robot's own value where it is known."""
    columns = min(3, len(trained))
    rows = math.ceil(len(trained) / columns)
    figure, panels = _figure(theme, 7.2, 2.0 * rows + 0.55, rows, columns)
    declared = {p.name: p for p in robot.space.parameters}
    for axes, info in zip(panels, trained, strict=False):
        _draw_range(axes, info, declared.get(info.name), posterior, truth.get(info.name), theme)
    for axes in panels[len(trained) :]:
        axes.set_axis_off()
    entries: list[Artist] = [
        Patch(facecolor=theme.band, edgecolor=theme.faint, label="range of training"),
        Line2D([], [], color=theme.text, linestyle=":", linewidth=1.5, label="nominal"),
    ]
    if posterior is not None:
        entries.append(Patch(facecolor=theme.after, alpha=0.75, label="posterior"))
        if not posterior.informed.all():
            entries.append(Patch(facecolor=theme.other, alpha=0.45, label="the logs cannot tell"))
    if truth:
        entries.append(Line2D([], [], color=theme.truth, linewidth=2.0, label="the robot's own"))
    legend = figure.legend(handles=entries, loc="outside lower center", ncols=len(entries),
                           frameon=False, fontsize=8.5)  # fmt: skip
    for text in legend.get_texts():
        text.set_color(theme.text)
    return figure


def _draw_range(
    axes: Axes, info: ParameterInfo, declared: Parameter | None, posterior: Posterior | None,
    truth: float | None, theme: Theme,
) -> None:  # fmt: skip
    low, high = info.low, info.high
    axes.axvspan(low, high, color=theme.band, zorder=0)
    axes.axvline(info.nominal, color=theme.text, linestyle=":", linewidth=1.3, zorder=4)
    title, marks = _words(info.name), [low, high, info.nominal]
    if posterior is not None and info.name in posterior.names:
        k = posterior.names.index(info.name)
        told, mean, std = bool(posterior.informed[k]), posterior.mean[k], posterior.std[k]
        ends = (min(low, posterior.low[k]), max(high, posterior.high[k]))
        marks += ends
        colour, alpha = (theme.after, 0.75) if told else (theme.other, 0.45)
        if ends[0] < ends[1]:
            edges = np.linspace(*ends, 41)
            density, _ = np.histogram(posterior.samples[:, k], edges, weights=posterior.weights)
            density = density / max(density.max(), 1e-300)
            axes.stairs(density, edges, fill=True, color=colour, alpha=alpha, zorder=2)
        unit = "" if info.unit == "1" else f" {info.unit}"
        said = f"{mean:.3g} ± {std:.2g}{unit}" if told else "the logs cannot tell"
        title += f": {said}"
    if truth is not None:
        axes.axvline(truth, color=theme.truth, linewidth=2.0, zorder=5)
        marks.append(truth)
    margin = 0.06 * (max(marks) - min(marks)) or 0.1
    axes.set_xlim(min(marks) - margin, max(marks) + margin)
    axes.set_ylim(0, 1.12)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_title(title, fontsize=9, color=theme.text, loc="left")
    axes.set_xlabel(_unit(info.unit, declared), fontsize=8.5)


def draw_belief(
    belief: Believed, ranges: Sequence[ParameterInfo], truth: Mapping[str, float], theme: Theme
) -> Figure:
    """One panel a parameter: mean and deviation of what is believed, over seconds, within the range
    of training."""
    columns = min(3, len(ranges))
    rows = math.ceil(len(ranges) / columns)
    figure, panels = _figure(theme, 7.2, 2.0 * rows + 0.3, rows, columns)
    for k, (axes, info) in enumerate(zip(panels, ranges, strict=False)):
        mean, std = belief.mean[:, k], belief.std[:, k]
        axes.axhspan(info.low, info.high, color=theme.band, zorder=0)
        axes.axhline(info.nominal, color=theme.text, linestyle=":", linewidth=1.3, zorder=2)
        axes.fill_between(belief.seconds, mean - std, mean + std, color=theme.after, alpha=0.25,
                          linewidth=0, zorder=3)  # fmt: skip
        axes.plot(belief.seconds, mean, color=theme.after, linewidth=1.8, zorder=4)
        if info.name in truth:
            axes.axhline(truth[info.name], color=theme.truth, linewidth=2.0, zorder=5)
        marks = [info.low, info.high, info.nominal, truth.get(info.name, info.nominal)]
        margin = 0.06 * (max(marks) - min(marks)) or 0.1
        axes.set_ylim(min(marks) - margin, max(marks) + margin)
        axes.plot(belief.begins, [min(marks) - margin] * len(belief.begins), "|",
                  color=theme.text, markersize=9, clip_on=False, zorder=6)  # fmt: skip
        axes.set_xlim(0, belief.seconds[-1])
        unit = "" if info.unit == "1" else f" {info.unit}"
        title = f"{_words(info.name)}: {mean[-1]:.3g} ± {std[-1]:.2g}{unit}"
        axes.set_title(title, fontsize=9, color=theme.text, loc="left")
        axes.set_xlabel("seconds", fontsize=8.5)
    for axes in panels[len(ranges) :]:
        axes.set_axis_off()
    return figure


def draw_stages(stages: Mapping[str, Sequence[float]], theme: Theme) -> Figure:
    """The return of every target episode by stage, with the mean of each stage and its interval."""
    figure, (axes,) = _figure(theme, 7.2, 2.9)
    names = [name for name, values in stages.items() if np.isfinite(values).any()]
    for x, name in enumerate(names):
        values = np.array([v for v in stages[name] if math.isfinite(v)])
        colour = {"before": theme.before, "after": theme.after}.get(name, theme.other)
        mean, low, high = bootstrap(values)
        axes.fill_between([x - 0.32, x + 0.32], low, high, color=colour, alpha=0.18, linewidth=0)
        axes.hlines(mean, x - 0.32, x + 0.32, color=colour, linewidth=2.2)
        spread = np.linspace(-0.18, 0.18, len(values)) if len(values) > 1 else np.zeros(1)
        axes.plot(x + spread, values, "o", color=colour, markersize=6,
                  markeredgecolor=theme.background, markeredgewidth=0.8)  # fmt: skip
        axes.annotate(f"{mean:.0f}", (x + 0.35, mean), color=colour, va="center", fontsize=10)
    said = LONG
    for first, others in {"trial": REMEMBERED, "steps": STEPPED}.items():
        said = said | others if first in stages else said
    labels = [
        f"{said.get(name, name)}\n{len(stages[name])} episode{'s' * (len(stages[name]) != 1)}"
        for name in names
    ]
    axes.set_xticks(range(len(names)), labels)
    axes.set_xlim(-0.6, len(names) - 0.3)
    _from_zero(axes)
    axes.set_ylabel("return of the episode")
    axes.grid(visible=False, axis="x")
    return figure


LONG = {
    "gather": "gather\nnominal context, with noise", "search": "search\nmany contexts",
    "before": "before\nnominal context", "after": "after\nadapted context",
}  # fmt: skip
REMEMBERED = {
    "trial": "trial\nfinding out", "before": "before\nnothing remembered",
    "after": "after\nremembering",
}  # fmt: skip
"""Of the stages of a memory."""
STEPPED = {
    "steps": "steps\nafter each episode", "before": "before\nno gradient steps",
    "after": "after\nadapted",
}  # fmt: skip
"""Of the stages of fast numbers."""


def draw_robustness(
    map_: RobustnessMap,
    theme: Theme,
    robot: Robot | None = None,
    posterior: Posterior | None = None,
) -> Figure:
    """Mean return over one or two parameters; with `robot`, the units and the nominal value; with
    `posterior`, where the logs place the robot (mean and 95 %)."""
    labels = [_axis(name, robot) for name in map_.names]
    nominal = None
    if robot is not None:
        known = dict(zip(robot.space.names, robot.space.nominal, strict=True))
        nominal = [float(known[name]) for name in map_.names]
    place = None
    if posterior is not None and all(name in posterior.names for name in map_.names):
        place = [posterior.names.index(name) for name in map_.names]
    if len(map_.names) == 1:
        return _draw_line(map_, labels[0], nominal, theme)
    figure, (axes,) = _figure(theme, 7.2, 4.2)
    x, y = map_.values
    colours = LinearSegmentedColormap.from_list("return", _ramp(theme))
    mesh = axes.pcolormesh(_edges(x), _edges(y), map_.mean.T, cmap=colours, shading="flat",
                           edgecolors=theme.background, linewidth=1.0)  # fmt: skip
    bar = figure.colorbar(mesh, ax=axes, pad=0.02)
    bar.set_label("mean return", color=theme.text)
    bar.ax.tick_params(colors=theme.text, length=0)
    bar.outline.set_visible(False)
    if len(x) * len(y) <= 100:
        for i, j in np.ndindex(map_.mean.shape):
            cell = np.array(mesh.to_rgba(map_.mean[i, j])[:3])
            bright = cell**2.2 @ [0.2126, 0.7152, 0.0722] > 0.18  # relative luminance, as in WCAG 2
            axes.text(float(x[i]), float(y[j]), f"{map_.mean[i, j]:.0f}", fontsize=8, ha="center",
                      va="center", color="#10151c" if bright else "#ffffff")  # fmt: skip
    halo: dict[str, Any] = {"markeredgecolor": theme.background, "markeredgewidth": 1.5}
    if nominal is not None:
        x, y = nominal
        axes.plot([x], [y], "D", color=theme.text, markersize=9, label="nominal", **halo)
    if place is not None and posterior is not None:
        mean, std = posterior.mean[place], 1.96 * posterior.std[place]
        (x, y), (dx, dy), colour = mean, std, theme.before
        axes.errorbar([x], [y], [dy], [dx], color=colour, linewidth=2.2, capsize=4)
        axes.plot([x], [y], "o", color=colour, markersize=9, label="identified, with 95 %", **halo)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if nominal is not None or place is not None:
        legend = axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
        for text in legend.get_texts():
            text.set_color(theme.text)
    return figure


def _draw_line(
    map_: RobustnessMap, label: str, nominal: Sequence[float] | None, theme: Theme
) -> Figure:
    figure, (axes,) = _figure(theme, 7.2, 3.2)
    axes.plot(map_.values[0], map_.mean, "o-", color=theme.after, linewidth=1.8, markersize=5)
    if nominal is not None:
        axes.axvline(nominal[0], color=theme.text, linestyle=":", linewidth=1.3, label="nominal")
        _legend(axes, theme)
    axes.set_xlabel(label)
    axes.set_ylabel("mean return")
    _from_zero(axes)
    return figure


def draw_returns(axes: Axes, rows: Mapping[str, Interval], theme: Theme) -> None:
    """Name -> mean and interval, as dots with bars, the first row on top."""
    colours = {"zero-shot": theme.before, "adapted": theme.after, "true context": theme.truth}
    for y, (name, (mean, low, high)) in enumerate(rows.items()):
        colour = colours.get(name, theme.other)
        axes.plot(
            [low, high], [y, y], color=colour, linewidth=5, alpha=0.35, solid_capstyle="round"
        )
        axes.plot(mean, y, "o", color=colour, markersize=9)
        axes.annotate(f"{mean:.0f}", (mean, y), (0, 9), textcoords="offset points", ha="center",
                      color=colour, fontsize=10)  # fmt: skip
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
    axes.set_xlabel("return on the robot, mean and 95 % interval")
    axes.grid(visible=False, axis="y")


def draw_ladder(table: Table, theme: Theme) -> Figure:
    """Return on the target of every method, the reference's and the best oracle's as lines: what
    lies between them is the gap. Methods whose cells are open are named and stay empty."""
    figure, (axes,) = _figure(theme, 7.6, 0.42 * len(table.rows) + 1.1)
    colours = {"reference": theme.before, "oracle": theme.truth, "method": theme.after}
    ends: dict[str, float] = {}
    for y, row in enumerate(table.rows):
        if row.mean is None:
            state = "failed" if row.refused else "open"
            axes.annotate(state, (0.01, y), xycoords=("axes fraction", "data"), va="center",
                          color=theme.other, fontsize=9)  # fmt: skip
            continue
        mean, low, high = (row.mean.mean,) * 3 if row.alone else row.mean
        colour = colours[row.kind]
        axes.plot(
            [low, high], [y, y], color=colour, linewidth=5, alpha=0.35, solid_capstyle="round"
        )
        axes.plot(mean, y, "o", color=colour, markersize=8)
        if row.closed is not None:
            axes.annotate(f"{row.closed.mean:.2f}", (high, y), (8, 0), textcoords="offset points",
                          va="center", color=colour, fontsize=9)  # fmt: skip
        if row.kind != "method":
            ends[row.kind] = max(mean, ends.get(row.kind, -math.inf))
    for kind, value in ends.items():
        axes.axvline(value, color=colours[kind], linewidth=1, linestyle=(0, (4, 3)))
    names = [f"{r.arm} ({r.seeds})" if r.seeds < r.asked else r.arm for r in table.rows]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel(
        f"return on {table.ladder.env}, {table.ladder.gap_name}: mean and 95 % interval over "
        f"{table.asked} seeds, or as many as stand in brackets; beside it, gap closed"
    )
    axes.grid(visible=False, axis="y")
    return figure


def _figure(
    theme: Theme, width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=theme.background)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        style(axes, theme)
    return figure, panels


def style(axes: Axes, theme: Theme) -> None:
    """Gives axes the theme's colours, and takes away what carries no information."""
    axes.set_facecolor(theme.background)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(theme.faint)
    axes.tick_params(colors=theme.text, labelsize=9, length=0)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set_color(theme.text)
    axes.grid(color=theme.faint, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)


def _from_zero(axes: Axes) -> None:
    """A difference in length is then a difference in return; with room for what is written."""
    low, high = axes.get_ylim()
    low = min(0.0, low)
    axes.set_ylim(low, high + 0.08 * (high - low))


def _legend(axes: Axes, theme: Theme) -> None:
    legend = axes.legend(frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_color(theme.text)


def _ramp(theme: Theme) -> list[str]:
    if theme is LIGHT:
        return ["#f4f1ea", "#a9cfe3", "#4796c4", "#0b4f80"]
    return ["#1f2833", "#1f567d", "#3f9bd1", "#d6efff"]


def _edges(centres: Array) -> Array:
    """(n,) -> (n + 1,) borders of cells around evenly spaced centres."""
    step = centres[1] - centres[0] if len(centres) > 1 else 1.0
    return np.append(centres - step / 2, centres[-1] + step / 2)


def _axis(name: str, robot: Robot | None) -> str:
    """`torso mass [× nominal]`"""
    if robot is None:
        return _words(name)
    declared = {p.name: p for p in robot.space.parameters}
    return f"{_words(name)} [{_unit(declared[name].unit, declared[name])}]"


def _unit(unit: str, declared: Parameter | None) -> str:
    if declared is not None and declared.op == "scale":
        return "× nominal"
    return "no unit" if unit == "1" else unit


def _words(name: str) -> str:
    return name.replace("_", " ")


def _thousands(value: float, _: int = 0) -> str:
    """900 k, 1.5 M"""
    if abs(value) >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if abs(value) >= 1e3 else f"{value:g}"


def draw_localization(
    localization: Localization, theme: Theme, attribution: Attribution | None = None
) -> Figure:
    """Where robot and simulation differ: the terms, the joints, what the mismatch consists of, and
    Δr over the two columns along which the classifiers tell them apart best. What was not asked or
    not found stays out."""
    terms, joints, map_ = localization.terms[:12], localization.joints[:8], localization.map
    bars = [("share of one step's motion [%]", [(t.name, t.share) for t in terms])]
    if joints:
        bars.append(("explained by a force on this joint alone [%]", list(joints)))
    if attribution is not None:
        shares = [(e.name, e.share.mean) for e in attribution.effects[:6]]
        shares += [("sensors' noise", attribution.noise.mean)]
        shares += [("nothing in the model", attribution.rest.mean)]
        bars.append(("share of the mismatch [%]", shares))
    longest = max((len(rows) for _, rows in bars), default=1)
    panels_wide = len(bars) + (map_ is not None)
    size = (4.6 * panels_wide, max(0.3 * longest + 1.3, 3.6 if map_ is not None else 1.8))
    figure, panels = _figure(theme, *size, 1, panels_wide)
    for axes, (label, rows) in zip(panels, bars, strict=False):
        _draw_shares(axes, label, rows, theme)
    if map_ is not None:
        _draw_map(figure, panels[-1], map_, theme)
    figure.suptitle(f"{localization.env}: {_kind(localization)}", color=theme.text, fontsize=11)
    return figure


def _draw_shares(axes: Axes, label: str, rows: Sequence[tuple[str, float]], theme: Theme) -> None:
    if not rows:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "nothing to compare", ha="center", color=theme.other, fontsize=10)
        return
    names, shares = [_words(name) for name, *_ in rows], [100 * row[-1] for row in rows]
    axes.barh(range(len(rows)), shares, height=0.62, color=theme.after)
    for y, share in enumerate(shares):
        axes.annotate(_percent(share), (share, y), (4, 0), textcoords="offset points", va="center",
                      color=theme.text, fontsize=8.5)  # fmt: skip
    axes.set_yticks(range(len(rows)), names)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.15 * max(*shares, 1e-6))
    axes.set_xlabel(label)
    axes.grid(visible=False, axis="y")


def _draw_map(figure: Figure, axes: Axes, map_: Map, theme: Theme) -> None:
    delta_r = np.array(map_.delta_r, float)  # None becomes NaN, which stays blank
    colours = LinearSegmentedColormap.from_list("delta_r", _ramp(theme))
    mesh = axes.pcolormesh(
        *map_.edges, np.ma.masked_invalid(delta_r.T), cmap=colours, shading="flat",
        edgecolors=theme.background, linewidth=1.0,
    )  # fmt: skip
    bar = figure.colorbar(mesh, ax=axes, pad=0.02)
    bar.set_label("Δr, robot minus simulation [nats]", color=theme.text)
    bar.ax.tick_params(colors=theme.text, length=0)
    bar.outline.set_visible(False)
    axes.set_xlabel(_words(map_.names[0]))
    axes.set_ylabel(_words(map_.names[1]))
    axes.grid(visible=False)


def _kind(localization: Localization) -> str:
    return {
        "none": "no gap found", "dynamics": "the dynamics differ",
        "observation": "an observation gap", "unknown": "unknown",
    }[localization.kind]  # fmt: skip


def _percent(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
