"""A short film of a policy at work in simulation, as frames and as a GIF."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from sim2real.evaluate import observation_names
from sim2real.policy.policy import Policy
from sim2real.simulation.camera import Camera
from sim2real.simulation.gap import Gap
from sim2real.simulation.make import make_worlds
from sim2real.simulation.robot import Robot
from sim2real.types import Array

FPS = 20
LARGEST = 1_500_000
"""Of a GIF [bytes]."""


class Film(NamedTuple):
    frames: Array
    """(T, H, W, 3) uint8"""
    returns: Array
    """(T,) return of the episode so far; it stands still once the episode has ended."""
    ended: float | None
    """When the task ended the episode, for instance with a fall [s]; None: it did not."""


def film(
    robot: Robot, policy: Policy, gap: Gap | str | None, z: Mapping[str, Array], seconds: float,
    *, seed: int = 0,
) -> Film:  # fmt: skip
    """Films the policy in the world of a gap, at 20 frames a second.

    When the task ends the episode the commands become zero and the film goes on for a second: who
    fell lies.

    Args:
        z: parts of the policy's z, by name; the others are what an episode begins with.

    Raises:
        RenderingMissing: no picture can be drawn here.
    """
    worlds = make_worlds(robot, 1, gap=gap, observe=observation_names(policy, robot), seed=seed)
    obs = worlds.reset()
    model = copy.copy(worlds.model)
    worlds.space.write(model, worlds.xi[0])
    state, reset = policy.initial(1), torch.ones(1, 1)
    for name, value in z.items():
        state = policy.given(state, name, value)
    frames, returns, total = list[Array](), list[float](), 0.0
    ended: float | None = None
    period = worlds.control_period
    with Camera(model) as camera, torch.no_grad():
        for tick in range(round(seconds / period)):
            if tick * period >= len(frames) / FPS:
                frames.append(camera.draw(worlds.data["qpos"][0]))
                returns.append(total)
            command, state = policy(torch.as_tensor(obs, dtype=torch.float32), state, reset)
            step = worlds.advance(command.numpy() if ended is None else np.zeros(command.shape))
            if ended is None:
                total += float(step.reward[0])
                ended = (tick + 1) * period if step.terminated[0] else None
            elif (tick + 1) * period >= ended + 1.0:
                break
            obs, reset = step.obs, torch.zeros(1, 1)
    return Film(np.stack(frames), np.array(returns), ended)


def side_by_side(films: Mapping[str, Film]) -> Array:
    """(T, H, W, 3) uint8: the films beside each other, each with its title, clock and return;
    a shorter one stands still at its end."""
    font = ImageFont.load_default(15)
    length = max(len(f.frames) for f in films.values())
    pictures: list[Array] = []
    for t in range(length):
        row: list[Array] = []
        for title, one in films.items():
            now = min(t, len(one.frames) - 1)
            picture = Image.fromarray(one.frames[now])
            ink = ImageDraw.Draw(picture)
            over = one.ended is not None and t / FPS >= one.ended
            clock = f"ended after {one.ended:.1f} s" if over else f"{t / FPS:.1f} s"
            for y, text in (
                (7, title),
                (picture.height - 27, f"return {one.returns[now]:.0f}, {clock}"),
            ):
                ink.text((10, y), text, "white", font, stroke_width=2, stroke_fill="#101418")
            row += [np.asarray(picture), np.full((picture.height, 4, 3), 255, np.uint8)]
        pictures.append(np.concatenate(row[:-1], axis=1))
    return np.stack(pictures)


def gif(frames: Array) -> bytes:
    """(T, H, W, 3) uint8 as an endless GIF of at most 1.5 MB: fewer colours, then fewer frames."""
    for colours, every in ((128, 1), (64, 1), (64, 2), (32, 4), (32, 8)):
        shown = frames[::every]
        # One palette for all frames, from some of them: colours that change by the frame flicker.
        some = Image.fromarray(np.concatenate(frames[:: max(1, len(frames) // 6)]))
        palette = some.quantize(colours, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        pages = [
            Image.fromarray(f).quantize(palette=palette, dither=Image.Dither.NONE) for f in shown
        ]
        out = io.BytesIO()
        pages[0].save(out, format="GIF", save_all=True, append_images=pages[1:], loop=0,
                      duration=1000 * every // FPS)  # fmt: skip
        if len(out.getvalue()) <= LARGEST:
            break
    return out.getvalue()


def still(frames: Array) -> bytes:
    """One frame of a film, two thirds in, as PNG: for readers who want nothing to move."""
    out = io.BytesIO()
    Image.fromarray(frames[2 * len(frames) // 3]).save(out, format="PNG", optimize=True)
    return out.getvalue()
