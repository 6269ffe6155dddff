"""Pictures obey the laws of perspective, and an encoder of pictures knows nothing of its batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sim2real.bridges.align.adversarial import Dann, align, fresh_discriminator
from sim2real.bridges.align.estimator import Pixels, encoder_of
from sim2real.bridges.align.images import View, Viewer, Views, render, render_many, scene
from sim2real.simulation.robot import Robot
from sim2real.types import Array, InputError

RED, BLACK = (1.0, 0.0, 0.0), (0.0, 0.0, 0.0)
HIDDEN = dict.fromkeys(
    ("ground", "sideS", "sideE", "sideN", "sideW", "root", "link0", "link1", "fingertip"), BLACK
)
FIELD, SIZE = 28.0, 64
PLACES = np.array([[0.15, 0.0], [-0.1, 0.12], [0.05, -0.16], [-0.12, -0.12]])


@pytest.fixture(scope="module")
def robot() -> Robot:
    return Robot.load("reacher")


@pytest.fixture(scope="module")
def states() -> Array:
    """(4, 4) the arm stretched away, the target at each of PLACES."""
    return np.array([[2.5, 0.5, x, y] for x, y in PLACES])


def seen_at(pictures: Array) -> Array:
    """(N, 2) column and row of what is red."""
    red = pictures[..., 0].astype(float) - pictures[..., 1:].max(axis=3)  # glare is white
    red *= red > 25
    grid = np.arange(SIZE) + 0.5
    columns = (red.sum(axis=1) * grid).sum(axis=1)
    rows = (red.sum(axis=2) * grid).sum(axis=1)
    return np.stack([columns, rows], axis=1) / red.sum(axis=(1, 2))[:, None]


def projected(robot: Robot, view: View) -> Array:
    """(N, 2) the same by a pinhole camera that looks down from its place, rolled about its axis."""
    distance = 0.75 * robot.model.stat.extent
    right, up, back = np.array(view.shift) * distance
    roll = view.turn[2]
    turned = np.array([[np.cos(roll), np.sin(roll)], [-np.sin(roll), np.cos(roll)]])
    x, y = turned @ (PLACES - [right, up]).T
    focal = SIZE / 2 / np.tan(np.deg2rad(view.field_of_view) / 2)
    depth = distance + back  # the target lies in the plane through the model's centre
    return np.stack([SIZE / 2 + focal * x / depth, SIZE / 2 - focal * y / depth], axis=1)


@pytest.mark.parametrize(
    "pose",
    [
        {}, {"shift": (0.05, -0.03, 0.1)}, {"turn": (0.0, 0.0, 0.4)},
        {"shift": (-0.03, 0.04, 0.05), "turn": (0.0, 0.0, -0.2)},
    ],
)  # fmt: skip
def test_a_camera_that_stands_elsewhere_sees_by_the_laws_of_perspective(robot, states, pose):
    """Control: the plain camera would have seen it elsewhere."""
    view = View(colours={**HIDDEN, "target": RED}, field_of_view=FIELD, **pose)
    seen = seen_at(render(robot, states, view, size=SIZE))
    np.testing.assert_allclose(seen, projected(robot, view), atol=0.7)
    if pose:
        assert np.abs(seen - projected(robot, View(field_of_view=FIELD))).max() > 2


def test_light_colour_and_texture_change_what_they_say(robot, states) -> None:
    one = states[:1]
    plain = render(robot, one, View(field_of_view=FIELD)).astype(float)
    dim = render(robot, one, View(field_of_view=FIELD, light=(0.5, 0.5, 0.5)))
    assert dim.mean() == pytest.approx(0.5 * plain.mean(), rel=0.1)
    warm = render(robot, one, View(field_of_view=FIELD, light=(1.0, 1.0, 0.3)))
    np.testing.assert_allclose(warm[..., :2], plain[..., :2], atol=2)
    assert warm[..., 2].mean() < 0.5 * plain[..., 2].mean()
    painted = render(robot, one, View(field_of_view=FIELD, colours={"link0": RED}))
    changed = (np.abs(painted - plain).max(axis=3) > 8).mean()
    assert 0.005 < changed < 0.05  # a link, and nothing else
    sunny = render(robot, one, View(field_of_view=FIELD, sun=(0.3, 0.2, -0.3)))
    assert sunny.mean() > plain.mean() + 5
    floor = render(robot, one, View(field_of_view=FIELD, floor=((0.9, 0.9, 0.9), BLACK)))
    assert floor.std() > plain.std() + 20


def test_noise_is_as_strong_as_it_says_and_seeded(robot, states) -> None:
    view = View(field_of_view=FIELD, light=(0.6, 0.6, 0.6), noise=6.0)
    clean = render(robot, states, View(field_of_view=FIELD, light=(0.6, 0.6, 0.6))).astype(float)
    a, b, c = (render(robot, states, view, seed=s) for s in (1, 1, 2))
    middle = (clean > 30) & (clean < 225)
    assert (a - clean)[middle].std() == pytest.approx(6.0, rel=0.05)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_image_randomization_deals_the_states_out_to_the_views(robot, states) -> None:
    rng = np.random.default_rng(0)
    views = [Views().sample(robot, rng) for _ in range(2)]
    assert views[0] != views[1]
    dealt = render_many(robot, states, views, size=32, seed=5)
    for i, view in enumerate(views):
        with Viewer(robot, view, size=32, seed=5 + i) as look:
            np.testing.assert_array_equal(dealt[i::2], look(states[i::2]))


def test_what_moves_is_the_same_whatever_the_camera(robot) -> None:
    model = scene(robot, Views(floor=True).sample(robot, np.random.default_rng(1)))
    nominal = robot.model
    for name in ("body_mass", "dof_armature", "dof_damping", "jnt_range", "geom_size", "qpos0"):
        np.testing.assert_array_equal(getattr(model, name), getattr(nominal, name), err_msg=name)


def test_an_encoder_of_pictures_knows_nothing_of_its_batch() -> None:
    """Statistics over a batch would tell the domain; the control arm has them and is caught."""
    rng = np.random.default_rng(0)
    obs = rng.integers(0, 256, (8, 32, 32, 3), np.uint8)
    torch.manual_seed(0)
    encoder = encoder_of(obs, (16, 4))
    leaking = torch.nn.Sequential(encoder, torch.nn.BatchNorm1d(4))
    x = Pixels()(torch.as_tensor(obs))
    with torch.no_grad():
        torch.testing.assert_close(encoder(x[:2]), encoder(x)[:2])
        assert not torch.allclose(leaking(x[:2]), leaking(x)[:2])


@pytest.mark.parametrize("method", ["dann", "confusion"])
def test_pictures_are_learned_from(method) -> None:
    """A bright square on the dark tells its place; the target's pictures are lighter all over."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)

    def squares(n: int, base: int) -> tuple[Array, Array]:
        place = rng.integers(2, 28, (n, 2))
        pictures = rng.integers(base, base + 30, (n, 32, 32, 3)).astype(np.uint8)
        for picture, (row, column) in zip(pictures, place, strict=True):
            picture[row - 2 : row + 3, column - 2 : column + 3] = 255
        return pictures, place.astype(float)

    own, place = squares(400, 0)
    other, there = squares(400, 40)
    config = Dann(method=method, encoder=(32, 8), steps=150, batch=16, lam=0.3)
    aligned = align(own, place, other, config)
    error = np.abs(aligned.predict(other) - there).mean()
    assert error < 0.6 * np.abs(place.mean(axis=0) - there).mean()
    assert 0.4 < fresh_discriminator(aligned.estimator, own, other, steps=50) <= 1.0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"noise": -1.0}, "noise is -1"), ({"light": (-1.0, 1.0, 1.0)}, "light must not"),
        ({"colours": {"ground": (2.0, 0.0, 0.0)}}, r"must lie in \[0, 1\]"),
        ({"field_of_view": 0.0}, "between 0 and 180"),
    ],
)  # fmt: skip
def test_a_view_that_cannot_be_is_refused(wrong, said) -> None:
    with pytest.raises(InputError, match=said):
        View(**wrong)


def test_a_colour_for_nothing_is_refused(robot) -> None:
    with pytest.raises(InputError, match=r"no geom 'link2' \(did you mean 'link"):
        scene(robot, View(colours={"link2": RED}))
    with pytest.raises(InputError, match="names its 'model'"):
        scene(Robot.load("fetch_reach"), View())
