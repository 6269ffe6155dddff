"""Pictures of a robot's states through cameras that differ in light, colours, pose and noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import mujoco
import numpy as np

from sim2real.simulation.camera import Camera
from sim2real.simulation.robot import MjcfRobot, Robot
from sim2real.types import Array, InputError, nearest

Triple = tuple[float, float, float]
SQUARES = 8
"""Squares of the floor's texture along a side of the scene."""


@dataclass(frozen=True)
class View:
    """How a camera sees the scene. The default is the simulator's plain view from above."""

    light: Triple = (1.0, 1.0, 1.0)
    """Factor on the light that comes from the camera, red green blue."""
    sun: Triple = (0.0, 0.0, 0.0)
    """Direction of a distant light; its length is the light's strength. It casts no shadows: in
    software they cost more than the picture."""
    colours: dict[str, Triple] = field(default_factory=dict[str, Triple])
    """Geom -> red green blue in [0, 1], instead of its own."""
    floor: tuple[Triple, Triple] | None = None
    """Two colours of a chequered texture on every plane; None leaves them plain."""
    shift: Triple = (0.0, 0.0, 0.0)
    """Where the camera stands away from its place: right, up in the picture, back [share of its
    distance]."""
    turn: Triple = (0.0, 0.0, 0.0)
    """Pitch, yaw and roll of the camera about its own axes [rad]."""
    field_of_view: float = 45.0
    """[degrees], vertically."""
    noise: float = 0.0
    """Standard deviation of each pixel's noise, in counts of 0 to 255."""

    def __post_init__(self) -> None:
        shades = [*self.colours.values(), *(self.floor or ())]
        if any(not 0 <= c <= 1 for shade in shades for c in shade):
            raise InputError("view: red, green and blue of a colour must lie in [0, 1]")
        if min(self.light) < 0:
            raise InputError("view: light must not be negative")
        if not 0 < self.field_of_view < 180:
            raise InputError(
                f"view: field_of_view is {self.field_of_view}; it must lie between 0 and 180 "
                "degrees"
            )
        if not self.noise >= 0:
            raise InputError(f"view: noise is {self.noise}; it must not be negative")


def scene(robot: Robot, view: View) -> mujoco.MjModel:
    """The robot's model as this camera sees it; what moves is unchanged.

    Raises:
        InputError: a colour for a geom that the model does not have, or a robot without a model of
            its own.
    """
    if not isinstance(robot, MjcfRobot):
        raise InputError(f"{robot.where}: pictures need a robot that names its 'model'")
    spec = mujoco.MjSpec.from_file(str(robot.model_path))
    known = [g.name for g in spec.geoms if g.name]
    for name in view.colours:
        if name not in known:
            raise InputError(
                f"view: colours: no geom '{name}'{nearest(name, known)}; they are "
                f"{', '.join(known)}"
            )
    for geom in spec.geoms:
        if geom.name in view.colours:
            geom.rgba = [*view.colours[geom.name], 1.0]
            geom.material = ""
    if view.floor is not None:
        _chequer(spec, view.floor)
    headlight = spec.visual.headlight
    for part in ("ambient", "diffuse", "specular"):
        setattr(headlight, part, np.clip(np.array(getattr(headlight, part)) * view.light, 0, 1))
    strength = float(np.linalg.norm(view.sun))
    if strength > 0:
        light = spec.worldbody.add_light(pos=[-x / strength for x in view.sun], dir=view.sun)
        light.type = mujoco.mjtLightType.mjLIGHT_DIRECTIONAL
        light.diffuse, light.castshadow = [strength] * 3, False
    for camera in spec.cameras:  # the one that follows is the one that is looked through
        camera.mode = mujoco.mjtCamLight.mjCAMLIGHT_FIXED
    pos, quat = _pose(robot.model, view)
    spec.worldbody.add_camera(
        name="view", pos=pos, quat=quat, fovy=view.field_of_view,
        mode=mujoco.mjtCamLight.mjCAMLIGHT_TRACK,
    )  # fmt: skip
    return spec.compile()


def render(robot: Robot, qpos: Array, view: View, *, size: int = 64, seed: int = 0) -> Array:
    """(N, size, size, 3) uint8, pictures of the states qpos (N, nq) through one camera.

    Args:
        seed: of the noise.

    Raises:
        RenderingMissing: nothing draws here; see simulation/camera.py.
    """
    with Viewer(robot, view, size=size, seed=seed) as viewer:
        return viewer(qpos)


def render_many(
    robot: Robot, qpos: Array, views: Sequence[View], *, size: int = 64, seed: int = 0
) -> Array:
    """The same with the states dealt out to the views in turn: image randomization."""
    pictures = np.zeros((len(qpos), size, size, 3), np.uint8)
    for i, view in enumerate(views):
        part = slice(i, None, len(views))
        if len(qpos[part]):
            pictures[part] = render(robot, qpos[part], view, size=size, seed=seed + i)
    return pictures


class Viewer:
    """A camera that stays open: for a policy that acts on what it sees. The arguments are
    `render`'s."""

    def __init__(self, robot: Robot, view: View, *, size: int = 64, seed: int = 0) -> None:
        self._noise, self._size = view.noise, size
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 7]))
        self._camera = Camera(scene(robot, view), size, size)

    def __call__(self, qpos: Array) -> Array:
        """(N, nq) -> (N, size, size, 3) uint8."""
        pictures = np.zeros((len(qpos), self._size, self._size, 3), np.uint8)
        for i, state in enumerate(qpos):
            pictures[i] = self._camera.draw(state)
        if self._noise == 0:
            return pictures
        noisy = pictures + self._noise * self._rng.standard_normal(pictures.shape)
        return noisy.round().clip(0, 255).astype(np.uint8)

    def close(self) -> None:
        self._camera.close()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Views:
    """How widely image randomization varies the view; each is drawn alone."""

    light: tuple[float, float] = (0.4, 1.4)
    tint: float = 0.15
    """Red, green and blue of the light differ by up to this share."""
    sun: float = 0.6
    """Greatest strength of the distant light, from any side above."""
    colour: float = 0.3
    """Every geom's red, green and blue change by up to this."""
    floor: bool = True
    """Whether half of the views have a chequered floor, of any two colours."""
    shift: float = 0.06
    turn: float = 0.06
    field_of_view: float = 45.0
    noise: float = 12.0

    def sample(self, robot: Robot, rng: np.random.Generator) -> View:
        """One view of this robot's scene."""
        model = robot.model
        names = [model.geom(i).name for i in range(model.ngeom)]
        colours = {
            name: _triple((model.geom_rgba[i, :3] + rng.uniform(-1, 1, 3) * self.colour).clip(0, 1))
            for i, name in enumerate(names)
            if name
        }
        tint = 1 + rng.uniform(-1, 1, 3) * self.tint
        sun = np.append(rng.uniform(-1, 1, 2), -1.0)
        sun *= rng.uniform(0, self.sun) / np.linalg.norm(sun)
        chequered = self.floor and rng.random() < 0.5
        return View(
            light=_triple(rng.uniform(*self.light) * tint),
            sun=_triple(sun),
            colours=colours,
            floor=(_triple(rng.random(3)), _triple(rng.random(3))) if chequered else None,
            shift=_triple(rng.uniform(-1, 1, 3) * self.shift),
            turn=_triple(rng.uniform(-1, 1, 3) * self.turn),
            field_of_view=self.field_of_view,
            noise=float(rng.uniform(0, self.noise)),
        )


def _triple(x: Array) -> Triple:
    a, b, c = (float(v) for v in x)
    return a, b, c


def _chequer(spec: mujoco.MjSpec, colours: tuple[Triple, Triple]) -> None:
    spec.add_texture(
        name="view floor", type=mujoco.mjtTexture.mjTEXTURE_2D,
        builtin=mujoco.mjtBuiltin.mjBUILTIN_CHECKER, rgb1=colours[0], rgb2=colours[1],
        width=256, height=256,
    )  # fmt: skip
    material = spec.add_material(name="view floor", texrepeat=[SQUARES / 2, SQUARES / 2])
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "view floor"
    for geom in spec.geoms:
        if geom.type == mujoco.mjtGeom.mjGEOM_PLANE:
            geom.material = "view floor"
            geom.rgba = [1.0, 1.0, 1.0, 1.0]  # the colour of a geom is a factor on its texture


def _pose(model: mujoco.MjModel, view: View) -> tuple[Array, Array]:
    """(3,) position [m] and (4,) quaternion of the camera: straight above the model's centre."""
    centre = np.array(model.stat.center)
    distance = 0.75 * float(model.stat.extent)
    right, up, back = view.shift
    pos = centre + distance * np.array([right, up, 1.0 + back])
    quat = np.array([1.0, 0.0, 0.0, 0.0])  # a camera looks along its -z, its x to the right
    for axis, angle in enumerate(view.turn):
        one = np.zeros(4)
        one[0], one[1 + axis] = math.cos(angle / 2), math.sin(angle / 2)
        result = np.zeros(4)
        mujoco.mju_mulQuat(result, quat, one)
        quat = result
    return pos, quat
