"""The picture in the README of every shipped robot.

    .venv/bin/python tools/draw_robots.py            all of them
    .venv/bin/python tools/draw_robots.py hopper     one

Each is the nominal robot after some random commands, drawn off screen, envs/ROBOT/picture.png.
"""

from __future__ import annotations

import argparse
import copy
import io
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from PIL import Image

from sim2real import content
from sim2real.deploy.files import write_atomically
from sim2real.simulation.camera import Camera
from sim2real.simulation.gymnasium_robot import GymnasiumRobot
from sim2real.simulation.robot import Robot
from sim2real.simulation.worlds import Worlds
from sim2real.types import Array

WIDTH, HEIGHT = 480, 320
FINER = 3  # drawn so many times larger, for smooth edges
LARGEST = 60_000  # [bytes]


@dataclass(frozen=True)
class View:
    """Where the camera is, and what it waits for."""

    azimuth: float = 90.0
    """[deg], 90 looks along y: x runs to the right."""
    elevation: float = -15.0
    """[deg]"""
    distance: float = 3.0
    """[m] from what it looks at."""
    center: tuple[float, float, float] | None = None
    """[m] what it looks at, where the first body cannot move; else that body's centre of mass."""
    steps: int = 0
    """Random commands before the picture."""
    seed: int = 0


VIEWS = {
    "ant": View(azimuth=120, elevation=-25, distance=2.8, steps=12, seed=1),
    "fetch_push": View(140, -25, 1.75, center=(1.05, 0.75, 0.5), steps=8),
    "fetch_reach": View(140, -25, 1.75, center=(1.05, 0.75, 0.5), steps=8, seed=2),
    "go1": View(azimuth=130, elevation=-20, distance=1.3, steps=6, seed=1),
    "halfcheetah": View(azimuth=75, distance=2.4, steps=15),
    "hand_reach": View(60, -35, 0.34, center=(1.03, 0.89, 0.185), steps=8),
    "hopper": View(azimuth=75, distance=2.5, steps=40, seed=3),
    "humanoid": View(azimuth=135, distance=2.5, steps=10, seed=2),
    "inverted_double_pendulum": View(elevation=-10, distance=2.9, steps=3),
    "inverted_pendulum": View(elevation=-10, distance=1.9, steps=4, seed=1),
    "pusher": View(azimuth=120, elevation=-35, distance=1.6, steps=20, seed=1),
    "reacher": View(elevation=-55, distance=0.5, steps=15, seed=1),
    "ur10e": View(140, -20, 2.4, center=(-0.2, 0.0, 0.55), steps=2),
    "ur10e_reach": View(140, -20, 2.4, center=(-0.2, 0.0, 0.55), steps=12, seed=1),
    "walker2d": View(azimuth=65, distance=2.3, steps=24, seed=1),
}


def draw(name: str) -> Image.Image:
    """The robot after the random commands of its view; of a goal environment, with its goal."""
    robot, view = Robot.load(name), VIEWS.get(name, View())
    model, qpos = pose(robot, view)
    for i in range(model.ncam):  # the camera takes one that follows, where a model has one
        model.cam_mode[i] = mujoco.mjtCamLight.mjCAMLIGHT_FIXED
    model.geom_rgba[np.isin(model.geom_bodyid, np.flatnonzero(model.body_mocapid >= 0)), 3] = 0.0
    model.vis.headlight.ambient[:] = 0.25  # some models are lit for a window, not for a page
    seen = model.vis.global_
    seen.azimuth, seen.elevation = view.azimuth, view.elevation
    seen.offwidth, seen.offheight = FINER * WIDTH, FINER * HEIGHT
    model.stat.extent = view.distance / 1.5  # how MuJoCo's free camera sets its distance
    if view.center is not None:
        model.stat.center = view.center
    with Camera(model, FINER * WIDTH, FINER * HEIGHT) as camera:
        picture = Image.fromarray(camera.draw(qpos))
    return picture.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def pose(robot: Robot, view: View) -> tuple[mujoco.MjModel, Array]:
    """A model to draw, and qpos (nq,) of it."""
    rng = np.random.default_rng(view.seed)
    if isinstance(robot, GymnasiumRobot):
        env = robot.make()
        bare: Any = env.unwrapped
        env.reset(seed=view.seed)
        for _ in range(view.steps):
            env.step(rng.uniform(*robot.command_range))
        bare._render_callback()  # puts the marks of a goal where the goal is
        return bare.model, bare.data.qpos
    worlds = Worlds(robot, 1, seed=view.seed, threads=1)
    worlds.reset()
    for _ in range(view.steps):
        worlds.advance(rng.uniform(*robot.command_range)[None])
    return copy.copy(robot.model), worlds.data["qpos"][0]


def compressed(picture: Image.Image) -> bytes:
    """A PNG of as many colours as LARGEST allows.

    Raises:
        ValueError: not even a few do.
    """
    for colors in (256, 128, 64, 32):
        out = io.BytesIO()
        picture.quantize(colors).save(out, "png", optimize=True)
        if len(out.getvalue()) <= LARGEST:
            return out.getvalue()
    raise ValueError(f"32 colours take {len(out.getvalue())} bytes, more than {LARGEST}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("robots", nargs="*", default=content.env_names(), help="shipped names")
    for name in parser.parse_args().robots:
        file = content.env_folder(name) / "picture.png"
        write_atomically(file, compressed(draw(name)))
        print(f"{file}: {file.stat().st_size} bytes")


if __name__ == "__main__":
    main()
