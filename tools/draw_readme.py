"""The picture of the README, from what `sim2real demo` left in its folder.

.venv/bin/python tools/draw_readme.py runs/demo docs/demo.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from matplotlib.figure import Figure

from sim2real.deploy.files import write_atomically
from sim2real.evaluate import Interval
from sim2real.pictures import LIGHT, draw_returns, fill_curves, png, read_curve, style

CURVES = {"the teacher of all policies": "policy/log/progress.csv"}
"""Label -> learning curve in the demo's folder; drawn where it is there."""


def draw(folder: Path) -> Figure:
    """The rows of the demo's table as dots with intervals, beside the learning curves."""
    figures = json.loads((folder / "figures.json").read_text())
    rows = {k: Interval(r["return"], r["low"], r["high"]) for k, r in figures["rows"].items()}
    curves = {k: read_curve(folder / f) for k, f in CURVES.items() if (folder / f).is_file()}
    figure = Figure(figsize=(10.0, 3.3), layout="constrained", facecolor=LIGHT.background)
    left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
    for axes in (left, right):
        style(axes, LIGHT)
    draw_returns(left, {k.replace(", ", ",\n"): v for k, v in rows.items()}, LIGHT)
    left.set_title("On a hopper with physics it never saw", loc="left", fontsize=11)
    fill_curves(right, curves, LIGHT)
    right.set_title("Training in randomized worlds", loc="left", fontsize=11)
    return figure


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    write_atomically(Path(sys.argv[2]), png(draw(Path(sys.argv[1]))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
