"""The report: complete, self-contained, and true to what it was given."""

import base64
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from PIL import Image, ImageSequence

from sim2real import recipe
from sim2real.adaptation.belief import Believed
from sim2real.adaptation.rehearsal import Rehearsal
from sim2real.adaptation.session import Adaptation, Spent
from sim2real.deploy.contract import AdaptedState
from sim2real.evaluate import RobustnessMap, play
from sim2real.film import FPS, LARGEST, Film, film, gif, side_by_side
from sim2real.identification.posterior import Posterior
from sim2real.pictures import (
    DARK,
    LIGHT,
    draw_belief,
    draw_ranges,
    draw_robustness,
    draw_stages,
    read_curve,
)
from sim2real.policy.networks import mlp
from sim2real.policy.normalizer import Normalizer
from sim2real.policy.policy import Policy
from sim2real.policy.spec import MemorySpec
from sim2real.report import Report, save_robustness, write_adaptation, write_report
from sim2real.simulation.camera import Camera, RenderingMissing
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.train import describe
from sim2real.types import InputError

torch.set_num_threads(1)

NASTY = "<script>alert('1')</script> & \"more\""


@pytest.fixture(scope="module")
def robot():
    return Robot.load("hopper")


@pytest.fixture(scope="module")
def policy(robot):
    """Untrained: it stands for a moment and falls."""
    _, resolved = recipe.read("hopper-context")
    spec = describe("standing", robot, resolved)
    torch.manual_seed(0)
    network = mlp([spec.feature_size, 8, spec.action_size])
    return Policy(spec, network, Normalizer.identity(spec.feature_size))


@pytest.fixture(scope="module")
def adaptation(robot):
    space, rng = robot.space, np.random.default_rng(0)
    prior = np.array(space.prior().std())
    spread = prior * np.where(np.array(space.names) == "floor_friction", 1.0, 0.1)
    samples = np.clip(rng.normal(1.2, spread, (64, space.K)), space.low, space.high)
    posterior = Posterior(
        "hopper", tuple(space.names), tuple(space.units), samples, np.full(64, 1 / 64), space.low,
        space.high, prior, -1.0, -2.0, 0.1, 50, {"pitch": 0.01},
    )  # fmt: skip
    z = AdaptedState(
        2, "0" * 64, "context", tuple(space.names), tuple(posterior.mean), tuple(posterior.std),
        True, 10, 12.5, 1,
    )  # fmt: skip
    stages = {"gather": [90.0, 95.0], "before": [100.0, 104.0], "after": [321.0, 123.0]}
    return Adaptation(
        True, f"it won {NASTY}", z, Path("artifact"), posterior, Rehearsal(0.1, 0.3),
        Spent(10, 12.5, 1), stages,
    )  # fmt: skip


@pytest.fixture(scope="module")
def progress(tmp_path_factory):
    """progress.csv as Stable-Baselines3 writes it, no episode finished in the first row."""
    path = tmp_path_factory.mktemp("log") / "progress.csv"
    path.write_text(
        "rollout/ep_rew_mean,time/fps,time/total_timesteps\n,900,1000\n10.5,900,2000\n30.0,900,3000\n"
    )
    return path


@pytest.fixture(scope="module")
def report(robot, policy, adaptation, progress):
    map_ = RobustnessMap(
        ("torso_mass", "motor_strength"), (np.linspace(0.6, 2, 3), np.linspace(0.6, 1.2, 4)),
        np.arange(12.0).reshape(3, 4, 1),
    )  # fmt: skip
    rows = [["zero-shot", "100 [90, 110]"], ["adapted", NASTY]]
    curves = {"context": progress}
    return Report(
        NASTY, ["on the robot", "return"], rows, robot, policy, adaptation, map_, curves, "worn"
    )


@pytest.fixture(scope="module")
def folder(report, tmp_path_factory):
    """Where the whole report stands, film included."""
    folder = tmp_path_factory.mktemp("runs")
    write_report(folder / "report.html", report)
    return folder


@pytest.fixture(scope="module")
def page(folder):
    return Page((folder / "report.html").read_text(encoding="utf-8"))


class Page(HTMLParser):
    """What a browser would see: elements with their attributes, and the text of each table."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.cells, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data):
        self.text += data
        if self.cells and self.elements[-1][0] in ("td", "th"):
            self.cells[-1] += data

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def without_film(report, tmp_path, monkeypatch):
    """The film takes seconds."""
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    write_report(tmp_path / "report.html", report)
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def picture(uri):
    kind, _, content = uri.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content, validate=True)))
    assert kind == f"data:image/{str(image.format).lower()}"
    return image


def test_the_report_is_one_file_that_loads_nothing(page, folder):
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "iframe", "object"})
    for tag, attributes in page.elements:
        for name in ("src", "srcset", "href"):
            assert attributes.get(name, "data:").startswith("data:"), tag
        assert not any(name.startswith("on") for name in attributes)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert [p.name for p in folder.iterdir()] == ["report.html"]


def test_every_picture_opens_and_says_what_it_shows(page):
    images = [picture(a["src"]) for a in page.all("img")]
    assert [i.format for i in images].count("PNG") == 4  # stages, ranges, robustness, learning
    assert [i.format for i in images].count("GIF") == 1
    alts = [a["alt"] for a in page.all("img")]
    assert len(set(alts)) == len(alts)
    assert all(len(alt) > 40 for alt in alts)
    dark = [a for a in page.all("source") if "dark" in a["media"]]
    assert len(dark) == 4
    for source in dark:
        assert np.asarray(picture(source["srcset"]).convert("L"))[0, 0] < 40
    (quiet,) = [a for a in page.all("source") if "reduced-motion" in a["media"]]
    assert picture(quiet["srcset"]).format == "PNG"


def test_the_table_stands_in_it_as_given(page):
    assert [cell.strip() for cell in page.cells[:6]] == [
        "on the robot",
        "return",
        "zero-shot",
        "100 [90, 110]",
        "adapted",
        NASTY,
    ]
    assert NASTY in page.text  # as text, in the title and in the gate's reason


def test_it_says_what_the_logs_cannot_tell(report, page, tmp_path, monkeypatch):
    assert "cannot tell: floor friction." in page.text
    told = replace(report.adaptation.posterior, prior_std=np.full(report.robot.space.K, 1e3))
    report = replace(report, adaptation=replace(report.adaptation, posterior=told))
    assert "cannot tell" not in without_film(report, tmp_path, monkeypatch).text


def test_the_robots_own_values_are_those_of_its_draw(report, tmp_path, monkeypatch):
    worlds = Worlds(report.robot, 1, gap="worn", seed=5)
    worlds.reset()
    page = without_film(replace(report, seed=5), tmp_path, monkeypatch)
    own = page.cells[page.cells.index("torso_mass") + 5]
    assert float(own) == pytest.approx(worlds.xi[0, 0], rel=1e-3)


def test_what_was_not_measured_is_left_out(report, tmp_path, monkeypatch):
    """A target without reward, searched instead of identified, and a training without a log."""
    bare = replace(report.adaptation, posterior=None, rehearsal=None, stages={}, accepted=False)
    curves = {"context": tmp_path / "none.csv"}
    report = replace(report, adaptation=bare, robustness=None, curves=curves)
    page = without_film(report, tmp_path, monkeypatch)
    assert len(page.all("img")) == 1  # the ranges of training
    assert "not accepted, and rolled back" in page.text
    assert "none.csv: no such file" in page.text


def test_without_rendering_only_the_film_is_missing(report, tmp_path, monkeypatch):
    page = without_film(report, tmp_path, monkeypatch)
    assert [picture(a["src"]).format for a in page.all("img")] == ["PNG"] * 4
    (line,) = [line for line in page.text.splitlines() if "No film" in line]
    assert "libegl1" in line
    assert "libosmesa6" in line


def test_a_driver_that_fails_is_missing_rendering(robot, monkeypatch):
    """Tried for real: GLFW without a display is what a machine without EGL and OSMesa is like."""
    monkeypatch.setattr("sim2real.simulation.camera.BACKENDS", ("glfw",))
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    with pytest.raises(RenderingMissing, match=r"nothing draws pictures here \(glfw: .*libegl1"):
        Camera(robot.model)


def test_a_report_that_cannot_be_made_leaves_the_old_one(report, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("the old one")
    with pytest.raises(InputError, match="did you mean 'worn'"):
        write_report(path, replace(report, gap="wron"))
    assert path.read_text() == "the old one"


def test_the_camera_sees_the_robot_move(robot):
    with Camera(robot.model, 160, 120) as camera:
        first = camera.draw(robot.model.qpos0)
        again = camera.draw(robot.model.qpos0)
        bent = robot.model.qpos0.copy()
        bent[3] = -1.0
        moved = camera.draw(bent)
        with pytest.raises(ValueError, match="qpos has shape"):
            camera.draw(np.zeros(3))
    assert first.shape == (120, 160, 3)
    assert first.dtype == np.uint8
    assert first.std() > 10
    np.testing.assert_array_equal(first, again)
    assert (first != moved).any()


def test_the_camera_ends_with_its_process(robot):
    camera = Camera(robot.model, 32, 32)
    camera._process.kill()
    with pytest.raises(RenderingMissing):
        camera.draw(robot.model.qpos0)
    camera.close()


def test_the_film_is_the_episode_that_evaluation_plays(robot, policy):
    """The return in the caption is the one that `play` sums over the same world."""
    one = film(robot, policy, "worn", {}, 3.0)
    worlds = Worlds(robot, 1, gap="worn", observe="measured", seed=0)
    nominal = np.array([p.nominal for p in policy.spec.context])
    played = play(policy, worlds, worlds.reset(), nominal)
    assert one.ended is not None
    assert one.ended == pytest.approx(played.seconds[0])
    assert one.returns[-1] == pytest.approx(played.returns[0], rel=1e-9)
    assert len(one.frames) == pytest.approx((one.ended + 1) * FPS, abs=1)
    assert one.frames.shape[1:] == (240, 320, 3)


def test_a_gif_plays_at_its_pace_and_stays_small():
    rng = np.random.default_rng(0)
    calm = np.zeros((40, 24, 32, 3), np.uint8)
    calm[np.arange(40), :, np.arange(40) % 32] = 255
    image = Image.open(io.BytesIO(gif(calm)))
    durations = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
    assert sum(durations) == 1000 * 40 / FPS
    noise = rng.integers(0, 256, (80, 120, 160, 3), np.uint8)  # nothing compresses worse
    assert len(gif(noise)) <= LARGEST


def test_films_stand_side_by_side_and_the_shorter_waits():
    brighter = (
        np.ones((1, 120, 90, 3), np.uint8) * np.arange(30, dtype=np.uint8)[:, None, None, None]
    )
    films = {"a": Film(brighter[:20], np.zeros(20), 0.5), "b": Film(brighter, np.zeros(30), None)}
    frames = side_by_side(films)
    assert frames.shape == (30, 120, 90 + 4 + 90, 3)
    assert frames[:, 60, 45, 0].tolist() == [*range(20), *[19] * 10]
    assert frames[:, 60, 94 + 45, 0].tolist() == list(range(30))


def test_the_curve_is_what_the_log_says(progress, tmp_path):
    steps, value = read_curve(progress)
    assert steps.tolist() == [2000, 3000]
    assert value.tolist() == [10.5, 30.0]
    other = tmp_path / "other.csv"
    other.write_text("rollout/ep_rew,time/total_timesteps\n1,2\n")
    with pytest.raises(InputError, match=r"no column 'rollout/ep_rew_mean' \(did you mean"):
        read_curve(other)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_panels_show_range_truth_and_posterior(robot, policy, adaptation, theme):
    truth = {"torso_mass": 1.6}
    figure = draw_ranges(robot, policy.spec.context, adaptation.posterior, truth, theme)
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}
    assert len(panels) == robot.space.K
    assert "floor friction: the logs cannot tell" in panels
    (mass,) = [axes for title, axes in panels.items() if title.startswith("torso mass")]
    assert {tuple(np.asarray(line.get_xdata())) for line in mass.lines} == {(1.0, 1.0), (1.6, 1.6)}
    (band,) = [p for p in mass.patches if isinstance(p, Rectangle)]
    assert to_hex(band.get_facecolor()) == theme.band
    trained = policy.spec.context[0]
    ends = (band.get_x(), band.get_x() + band.get_width())
    assert ends == pytest.approx((trained.low, trained.high))
    assert [axes.get_xlabel() for axes in panels.values()] == ["× nominal"] * 4 + ["ms"]


def test_stages_show_every_episode(adaptation):
    (axes,) = draw_stages(adaptation.stages, LIGHT).axes
    shown = sorted(float(y) for line in axes.lines for y in np.asarray(line.get_ydata()))
    assert shown == sorted(v for values in adaptation.stages.values() for v in values)


def test_the_map_has_its_first_parameter_along_x(robot, report):
    axes, _ = draw_robustness(report.robustness, LIGHT, robot, None).axes
    written = {t.get_position(): t.get_text() for t in axes.texts}
    assert written[(0.6, 1.2)] == "3"
    assert written[(2.0, 0.6)] == "8"
    assert axes.get_xlabel() == "torso mass [× nominal]"


def test_save_robustness_writes_a_picture(report, robot, tmp_path):
    line = RobustnessMap(("torso_mass",), (np.linspace(0.6, 2, 4),), np.arange(4.0)[:, None])
    for map_, name in ((report.robustness, "two.png"), (line, "one.png")):
        save_robustness(map_, tmp_path / name)
        with Image.open(tmp_path / name) as image:
            assert image.format == "PNG"
            plain = image.size
        save_robustness(map_, tmp_path / name, robot)
        with Image.open(tmp_path / name) as image:
            assert image.size == plain
    with pytest.raises(InputError, match="cannot write"):
        save_robustness(line, tmp_path)


def test_what_a_policy_believed_is_drawn_over_the_seconds_of_its_trial(
    robot, policy, adaptation, tmp_path
):
    infos = policy.spec.context[:2]
    t = np.arange(1, 41) / 40
    mean = np.stack([1 + 0.2 * t, 1 - 0.1 * t], axis=1)
    std = np.stack([0.3 * (1 - 0.9 * t)] * 2, axis=1)
    belief = Believed(tuple(p.name for p in infos), ("1", "1"), t, mean, std, (0.0, 0.5))
    for theme in (LIGHT, DARK):
        figure = draw_belief(belief, infos, {infos[0].name: 1.2}, theme)
        first, second = figure.axes
        titles = [axes.get_title(loc="left") for axes in figure.axes]
        assert titles == ["torso mass: 1.2 ± 0.03", "joint damping: 0.9 ± 0.03"]
        assert first.get_xlim() == (0, 1)
        lines = [np.asarray(line.get_ydata()) for line in first.lines]
        assert any(np.array_equal(y, mean[:, 0]) for y in lines)
        assert sum(len(axes.lines) for axes in (first, second)) == 7  # the truth is known of one
    memory = MemorySpec(4, believes=belief.names)
    spec = replace(policy.spec, context=(), parameters=policy.spec.context, memory=memory)
    network = mlp([spec.network_size, 8, spec.action_size])
    told = Policy(spec, network, Normalizer.identity(spec.feature_size))
    z = replace(adaptation.z, state="memory", names=())
    found = replace(adaptation, z=z, posterior=None, belief=belief)
    write_adaptation(tmp_path / "r.html", found, told, robot, "a robot")
    page = (tmp_path / "r.html").read_text()
    assert "The belief closes in" in page
    assert "torso_mass, in the end 1.2 ± 0.03" in page
    assert "Before and after" not in page  # nothing is simulated of a robot that nobody knows
    write_adaptation(tmp_path / "r.html", replace(found, belief=None), told, robot, "a robot")
    assert "The belief closes in" not in (tmp_path / "r.html").read_text()
