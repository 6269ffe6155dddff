"""One HTML file that says, with pictures, what a run came to. See `write_report`."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sim2real import pictures
from sim2real.adaptation.session import Adaptation
from sim2real.compare import Table
from sim2real.deploy.files import write_atomically
from sim2real.evaluate import RobustnessMap, bootstrap
from sim2real.film import film, gif, side_by_side, still
from sim2real.localization.attribution import Attribution
from sim2real.localization.findings import Localization
from sim2real.pictures import DARK, LIGHT, Theme
from sim2real.policy.policy import Policy
from sim2real.policy.spec import ParameterInfo
from sim2real.simulation.camera import RenderingMissing
from sim2real.simulation.make import make_worlds
from sim2real.simulation.robot import Robot
from sim2real.types import Array, InputError

SECONDS = 4.0
"""Length of the film."""


@dataclass(frozen=True)
class Report:
    """What `write_report` tells."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    """The table, as text."""
    robot: Robot
    policy: Policy
    adaptation: Adaptation
    robustness: RobustnessMap | None = None
    curves: Mapping[str, Path] = field(default_factory=dict[str, Path])
    """Label -> progress.csv of a training."""
    gap: str = ""
    """The robot's gap, where it is a simulated one. It is simulated for the film, and its ξ is
    marked beside what the logs say; the adaptation that is reported saw neither."""
    seed: int = 0
    """Which robot, where the gap is a family."""


def write_report(path: str | Path, report: Report) -> None:
    """Writes one self-contained HTML file, whole or not at all: pictures inside, nothing loaded
    from elsewhere, no script, light or dark as the reader prefers.

    Where no picture of the robot can be drawn, the report says what brings it, and is otherwise
    complete; the same goes for a learning curve whose file is missing.

    Raises:
        InputError: the robot has no such gap, or the file cannot be written.
    """
    sections = [
        _section("Results", _table(report.columns, report.rows)) if report.rows else "",
        _film(report),
        _stages(report),
        _ranges(report),
        _belief(report),
        _robustness(report),
        _curves(report),
    ]
    page = PAGE.format(
        title=escape(report.title), style=STYLE, lead=_lead(report.adaptation),
        sections="\n".join(s for s in sections if s), colophon=_colophon(report),
    )  # fmt: skip
    write_atomically(Path(path), page.encode())


def write_adaptation(
    path: str | Path, adaptation: Adaptation, policy: Policy, robot: Robot, target: str
) -> None:
    """Writes what an adaptation on a target came to, as `write_report` does."""
    rows = [
        [stage, str(len(returns)), str(bootstrap(np.array(returns)))]
        for stage, returns in adaptation.stages.items()
    ]
    title = f"{policy.spec.name}, adapted on {target}"
    columns = ("stage", "episodes", "return [95 %]")
    write_report(path, Report(title, columns, rows, robot, policy, adaptation))


def save_robustness(map_: RobustnessMap, path: str | Path, robot: Robot | None = None) -> None:
    """Draws a robustness map as PNG; `robot` gives its axes their units, and the nominal value.

    Raises:
        InputError: the file cannot be written.
    """
    write_atomically(Path(path), pictures.png(pictures.draw_robustness(map_, LIGHT, robot)))


def save_localization(
    localization: Localization, path: str | Path, attribution: Attribution | None = None
) -> None:
    """Draws where robot and simulator differ as PNG, and what of it is which effect.

    Raises:
        InputError: the file cannot be written.
    """
    write_atomically(
        Path(path), pictures.png(pictures.draw_localization(localization, LIGHT, attribution))
    )


def save_ladder(table: Table) -> Path:
    """Draws a ladder beside its cells, with the table as Markdown; gives the picture's path."""
    path = table.folder / "ladder.png"
    write_atomically(path, pictures.png(pictures.draw_ladder(table, LIGHT)))
    write_atomically(path.with_suffix(".md"), (table.markdown() + "\n").encode())
    return path


def _lead(adaptation: Adaptation) -> str:
    spent = adaptation.spent
    verdict = "accepted" if adaptation.accepted else "not accepted, and rolled back"
    kind = "yes" if adaptation.accepted else "no"
    return (
        f'<p class="lead">The adaptation was <strong class="{kind}">{verdict}</strong>: '
        f"{_text(adaptation.reason)}. It used {_count(spent.episodes, 'episode')}, "
        f"{spent.seconds:.1f} s and {_count(spent.falls, 'fall')} of the robot.</p>"
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first cell of a row is its name."""
    head = "".join(f'<th scope="col">{_text(c)}</th>' for c in columns)
    body = "".join(
        f'<tr><th scope="row">{_text(name)}</th>'
        + "".join(f"<td>{_text(cell)}</td>" for cell in cells)
        + "</tr>\n"
        for name, *cells in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"
    return f'<div class="wide" tabindex="0">{table}</div>'


UNADAPTED = {
    "context": "nominal context", "memory": "nothing remembered", "fast": "no gradient steps",
}  # fmt: skip
"""State that is adapted -> what it is before."""


def _film(report: Report) -> str:
    policy, adaptation = report.policy, report.adaptation
    if not report.gap:
        return ""
    unadapted = UNADAPTED[adaptation.z.state]
    begun: dict[str, dict[str, Array]] = {unadapted: {}}
    if adaptation.accepted:
        found = {adaptation.z.state: np.array(adaptation.z.value)}
        begun = {f"before: {unadapted}": {}, "after: adapted": found}
    try:
        films = {
            title: film(
                report.robot, policy, report.gap, z, SECONDS, seed=report.seed
            )
            for title, z in begun.items()
        }  # fmt: skip
    except RenderingMissing as error:
        return _section("Before and after", f'<p class="missing">No film: {_text(str(error))}.</p>')
    frames = side_by_side(films)
    ends = {
        t: f"goes on after {SECONDS:.0f} s" if f.ended is None else f"ends after {f.ended:.1f} s"
        for t, f in films.items()
    }
    alt = f"The {report.robot.name} with the gap {report.gap}: " + "; ".join(
        f"{title}, the episode {ends[title]}, return {f.returns[-1]:.0f}"
        for title, f in films.items()
    )
    moving, quiet = _uri(gif(frames), "gif"), _uri(still(frames), "png")
    picture = (
        f'<picture><source media="(prefers-reduced-motion: reduce)" srcset="{quiet}">'
        f'<img src="{moving}" alt="{escape(alt)}" width="{frames.shape[2]}" '
        f'height="{frames.shape[1]}"></picture>'
    )
    caption = (
        "The beginning of an episode, from the same start; simulated with the gap "
        f"<em>{escape(report.gap)}</em> for this film only."
    )
    return _section("Before and after", _framed(picture, caption))


def _stages(report: Report) -> str:
    stages = {k: v for k, v in report.adaptation.stages.items() if np.isfinite(v).any()}
    if not stages:
        return ""
    alt = "Returns of the target episodes: " + "; ".join(
        f"{name} {', '.join(f'{v:.0f}' for v in values)}" for name, values in stages.items()
    )
    rehearsal = report.adaptation.rehearsal
    caption = "Every episode that the adaptation used; lines are means, bands 95 % intervals."
    if rehearsal is not None:
        where = "drawn from the posterior" if report.adaptation.posterior else "around its context"
        caption += (
            f" Rehearsed in worlds {where}, the policy fell "
            f"{rehearsal.unadapted:.2f} times a second before and {rehearsal.adapted:.2f} after."
        )
    return _figure("Adaptation, episode by episode",
                   lambda theme: pictures.draw_stages(stages, theme), alt, caption)  # fmt: skip


def _ranges(report: Report) -> str:
    robot, posterior = report.robot, report.adaptation.posterior
    trained = _trained(report.policy, robot)
    if not trained:
        return ""
    truth = _truth(report)
    caption = "What training varied, and what the logs of the adaptation say about the robot."
    rows: list[list[str]] = []
    unknown: list[str] = []
    for p in trained:
        found = "not identified"
        if posterior is not None and p.name in posterior.names:
            k = posterior.names.index(p.name)
            found = f"{posterior.mean[k]:.3g} ± {posterior.std[k]:.2g}"
            if not posterior.informed[k]:
                unknown.append(p.name.replace("_", " "))
                found += " (the logs cannot tell)"
        own = f"{truth[p.name]:.4g}" if p.name in truth else "–"
        rows.append([p.name, p.unit, f"{p.low:g} to {p.high:g}", f"{p.nominal:g}", found, own])
    if unknown:
        caption += f" They cannot tell: {', '.join(unknown)}."
    if truth:
        caption += (
            " The robot's own values come from the file of its gap; the adapting process never saw "
            "them."
        )
    heads = ("parameter", "unit", "trained", "nominal", "identified", "the robot's own")
    numbers = f"<details><summary>The same in numbers</summary>{_table(heads, rows)}</details>"
    alt = "Range of training, nominal value and posterior of " + ", ".join(p.name for p in trained)
    return _figure(
        "Randomization and what the logs reveal",
        lambda theme: pictures.draw_ranges(robot, trained, posterior, truth, theme),
        f"{alt}; the numbers follow in a table", caption, numbers,
    )  # fmt: skip


def _belief(report: Report) -> str:
    belief = report.adaptation.belief
    if belief is None:
        return ""
    infos = {p.name: p for p in report.policy.spec.parameters}
    alt = "What the policy believed of " + "; ".join(
        f"{r['name']}, in the end {r['mean']:.3g} ± {r['std']:.2g}" for r in belief.summary()
    )
    caption = (
        f"What the policy believed while it acted, {belief.seconds[-1]:.1f} s of the trial: mean "
        "and deviation, over the range of training. Ticks are where an episode began."
    )
    return _figure(
        "The belief closes in",
        lambda theme: pictures.draw_belief(
            belief, [infos[n] for n in belief.names], _truth(report), theme
        ),
        alt, caption,
    )  # fmt: skip


def _robustness(report: Report) -> str:
    map_ = report.robustness
    if map_ is None:
        return ""
    robot, posterior = report.robot, report.adaptation.posterior
    best = np.unravel_index(int(map_.mean.argmax()), map_.mean.shape)
    where = ", ".join(
        f"{n} {v[i]:.3g}" for n, v, i in zip(map_.names, map_.values, best, strict=True)
    )
    alt = (
        f"Mean return over {' and '.join(map_.names)}: from {map_.mean.min():.0f} to "
        f"{map_.mean.max():.0f}, the highest at {where}"
    )
    caption = "Mean return in simulation; all other parameters are nominal."
    return _figure(
        "Robustness",
        lambda theme: pictures.draw_robustness(map_, theme, robot, posterior),
        alt,
        caption,
    )


def _curves(report: Report) -> str:
    read: dict[str, tuple[Array, Array]] = {}
    missing: list[str] = []
    for label, path in report.curves.items():
        try:
            read[label] = pictures.read_curve(path)
        except InputError as error:
            missing.append(
                f'<p class="missing">No learning curve of {_text(label)}: {_text(str(error))}.</p>'
            )
    drawn = {label: curve for label, curve in read.items() if len(curve[0])}
    if not drawn:
        return _section("Learning", "".join(missing)) if missing else ""
    alt = "Return over control steps of training: " + "; ".join(
        f"{label} reaches {value[-1]:.0f} after {steps[-1]:.0f} steps"
        for label, (steps, value) in drawn.items()
    )
    caption = (
        "Return of training episodes in randomized worlds, exploration noise included, mean of the "
        "last 100."
    )
    return _figure("Learning", lambda theme: pictures.draw_curves(drawn, theme), alt, caption,
                   "".join(missing))  # fmt: skip


def _trained(policy: Policy, robot: Robot) -> Sequence[ParameterInfo]:
    return [p for p in policy.spec.context or policy.spec.parameters if p.name in robot.space.names]


def _truth(report: Report) -> dict[str, float]:
    """ξ of the robot, as far as its gap says it."""
    if not report.gap:
        return {}
    robot, gap = report.robot, report.robot.gap(report.gap)
    worlds = make_worlds(
        robot, 1, gap=gap, observe=[t.name for t in report.policy.spec.terms], seed=report.seed
    )
    worlds.reset()
    late = gap.latency.action_ms != 0.0
    return {
        p.name: float(value)
        for p, value in zip(robot.space.parameters, worlds.xi[0], strict=True)
        if p.name in gap.xi or (late and p.field == "actuator_delay")
    }


def _figure(
    title: str, draw: Callable[[Theme], Figure], alt: str, caption: str, more: str = ""
) -> str:
    """A section with a picture for light and one for dark."""
    light, dark = (_uri(pictures.png(draw(theme)), "png") for theme in (LIGHT, DARK))
    picture = (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{dark}">'
        f'<img src="{light}" alt="{escape(alt)}"></picture>'
    )
    return _section(title, _framed(picture, _text(caption)) + more)


def _framed(picture: str, caption: str) -> str:
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{content}</section>"


def _colophon(report: Report) -> str:
    gap = {"gap": report.gap} if report.gap else {}
    facts = {"policy": report.policy.spec.name, "robot": report.robot.name, **gap,
             **report.policy.spec.provenance}  # fmt: skip
    return " · ".join(f"{_text(k)} {_text(v)}" for k, v in facts.items())


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _text(text: str) -> str:
    """Plain text as HTML; what stands in backticks is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def _uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


# The policy keeps the file self-contained: a browser refuses whatever it would load from elsewhere.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><h1>{title}</h1>
{lead}</header>
{sections}
</main>
<footer>{colophon}</footer>
</body>
</html>
"""

STYLE = """
:root { --paper: #f5f7f9; --card: #ffffff; --ink: #1c2430; --soft: #556070; --line: #d5dae1;
  --yes: #0072b2; --no: #b34700; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #0d1117; --card: #161b22; --ink: #e3e8ee; --soft: #a3adb9; --line: #39424e;
    --yes: #56b4e9; --no: #ff9147; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; }
main { max-width: 58rem; margin: 0 auto; padding: 2rem 1rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 0.5rem; }
h2 { font-size: 1.15rem; margin: 0 0 0.8rem; }
.lead { font-size: 1.08rem; margin: 0 0 1.5rem; }
.yes { color: var(--yes); } .no { color: var(--no); }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1.2rem 1.3rem; margin: 0 0 1.2rem; }
figure { margin: 0; }
img { display: block; width: 100%; max-width: 50rem; height: auto; margin: 0 auto; }
img[width] { width: auto; max-width: 100%; }
figcaption, .missing, details { color: var(--soft); font-size: 0.92rem; margin-top: 0.7rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 0.45rem 0.7rem; text-align: right; border-bottom: 1px solid var(--line); }
th:first-child { text-align: left; font-weight: 500; }
thead th { color: var(--soft); font-size: 0.88rem; font-weight: 500; }
tbody tr:last-child > * { border-bottom: 0; }
summary { cursor: pointer; }
code { font-size: 0.92em; }
footer { max-width: 58rem; margin: 0 auto; padding: 0 1rem 2.5rem; color: var(--soft);
  font-size: 0.82rem; overflow-wrap: anywhere; }
"""
