"""An arm on a fixed base from recordings of its motion: inertias, friction and a load.

The current of the motor of joint j is

    K_j·i_j = [Y(q, q̇, q̈)·θ]_j + tanh(q̇_j/ε)·(c_j + k_j·|[Y·θ]_j|) + b_j·q̇_j + o_j + I_j·q̈_j

with ten inertial parameters a link (regressor.py), Coulomb friction c, its share k of the load on
the gears, viscous friction b, an offset o, the rotor's inertia I and the drive's gain K. All of it
passes one zero-phase low-pass filter. Unknown are θ, c, k, b, o, I and log K; the estimate
maximises the posterior density, with the entropic divergence to the nominal model as prior for the
inertias (Lee, Wensing and Park 2020), which no parameters reach that no body has.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import mujoco
import numpy as np
from scipy.signal import butter, sosfiltfilt

from sim2real import schema
from sim2real.deploy.files import canonical, write_atomically
from sim2real.identification.regressor import (
    PER_LINK,
    links,
    parameters,
    pseudo_inertia,
    regressor,
)
from sim2real.types import Array, InputError

SLOW = 0.015
"""ε: speed at which dry friction has nearly its full size [rad/s]."""
KINEMATIC_CUTOFF = 20.0
"""Of the filter of positions and velocities, from whose slope the acceleration follows [Hz]."""
CUTOFF = 8.0
"""Of the filter that measured and predicted currents pass before they are compared [Hz]."""
GAIN_SPREAD = 0.2
"""Prior standard deviation of log K: the drive gains that two groups state for one arm differ by
factors of 1.1 to 1.5."""
TRUST = 25.0
"""Weight of the prior of a link's inertias. A common factor of all of them has a prior standard
deviation of 1/sqrt(4·TRUST·J), 4 % for six links: makers know what their links weigh."""
LOAD_TRUST = 0.1
"""The same of a load that nobody knows."""
BALL = np.array([2.0, 0.0, 0.0, 0.1, 0.03, 0.03, 0.03, 0.0, 0.0, 0.0])
"""Where an unknown load begins: 2 kg, 5 cm before the flange."""
ROUNDS, SETTLED = 20, 5e-3
"""Rounds of the fit at most; it has settled where masses, friction and gains change by less than
this share."""
FRICTION_TRUST = 1e-3
"""Weight of the barrier that keeps friction and rotors above zero."""
log = logging.getLogger(__name__)

TERMS = ("coulomb", "load_share", "viscous", "offset", "rotor")


class Recording(NamedTuple):
    """A motion of the arm, evenly sampled."""

    name: str
    period: float
    """[s]"""
    position: Array
    """(T, J) [rad]"""
    velocity: Array
    """(T, J) [rad/s]"""
    current: Array
    """(T, J) [A]"""


class Motion(NamedTuple):
    """A recording, filtered, with accelerations; the rest at both ends left out."""

    position: Array
    velocity: Array
    acceleration: Array
    current: Array
    """(T, J), as measured"""
    period: float


@dataclass(frozen=True)
class Arm:
    """What was identified. J joints, in the model's order."""

    env: str
    joints: tuple[str, ...]
    inertia: list[list[float]]
    """(J, 10) θ, see regressor.py."""
    coulomb: list[float]
    """(J,) [N m]"""
    load_share: list[float]
    """(J,)"""
    viscous: list[float]
    """(J,) [N m s/rad]"""
    offset: list[float]
    """(J,) [N m]"""
    rotor: list[float]
    """(J,) inertia of the rotors at the joint [kg m²]"""
    gain: list[float]
    """(J,) torque for current [N m/A]"""
    noise: list[float]
    """(J,) standard deviation of what the model leaves of the filtered current [A]"""
    load: list[float] | None = None
    """(10,) θ of a load at the last link, in its frame; None where none was asked for."""
    load_mass: tuple[float, float, float] | None = None
    """[kg] of the load: estimate and the ends of its 95 % interval."""
    recordings: tuple[str, ...] = ()

    def current(self, model: mujoco.MjModel, motion: Motion, *, loaded: bool = False) -> Array:
        """(T, J) [A] that the arm needs for a motion, with its load or without.

        Raises:
            InputError: loaded, and no load was identified.
        """
        theta = np.array(self.inertia)
        if loaded:
            if self.load is None:
                raise InputError("no load was identified; give its recordings with --load")
            theta[-1] += self.load
        Y = regressor(model, motion.position, motion.velocity, motion.acceleration)
        body = Y @ theta.ravel()
        friction = np.stack([np.array(getattr(self, name)) for name in TERMS])  # (5, J)
        columns = _friction(motion, body)  # (T, J, 5)
        return (body + np.einsum("tjk,kj->tj", columns, friction)) / np.array(self.gain)

    def save(self, path: str | Path) -> None:
        """As JSON, whole or not at all."""
        write_atomically(Path(path), (canonical(asdict(self)) + "\n").encode())

    @staticmethod
    def read(path: str | Path) -> Arm:
        """Raises InputError for a file that is no arm."""
        try:
            data = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: no identified arm: {error}") from error
        arm = schema.read(Arm, data, str(path))
        J = len(arm.joints)
        for name in (*TERMS, "gain", "noise", "inertia"):
            if len(getattr(arm, name)) != J:
                raise InputError(
                    f"{path}: {name} has {len(getattr(arm, name))} entries for {J} joints"
                )
        for theta in (*arm.inertia, *([arm.load] if arm.load else [])):
            if len(theta) != PER_LINK:
                raise InputError(
                    f"{path}: a link has {len(theta)} inertial parameters, not {PER_LINK}"
                )
        return arm


def motion_of(recording: Recording) -> Motion:
    """Filters, differentiates, and leaves out the rest before and after the motion.

    Raises:
        InputError: the arm never moves, or for less than two seconds.
    """
    rate = 1 / recording.period
    position = _filtered(recording.position, KINEMATIC_CUTOFF, rate)
    velocity = _filtered(recording.velocity, KINEMATIC_CUTOFF, rate)
    acceleration = np.gradient(velocity, recording.period, axis=0)
    moves = np.flatnonzero(np.abs(velocity).max(axis=1) > 0.05)
    half = round(0.5 * rate)  # the filter's ends
    if not len(moves) or moves[-1] - moves[0] < 4 * half:
        raise InputError(f"{recording.name}: the arm moves for less than two seconds")
    part = slice(moves[0] + half, moves[-1] - half)
    return Motion(
        position[part], velocity[part], acceleration[part],
        recording.current[part], recording.period,
    )  # fmt: skip


def fit_arm(
    model: mujoco.MjModel,
    env: str,
    recordings: Sequence[Recording],
    loaded: Sequence[Recording] = (),
) -> Arm:
    """The arm that explains recordings, and its load where some were made with one.

    Args:
        model: its nominal parameters and drive gains (`gear`) are where the prior is.
        recordings: without the load.
        loaded: the same arm with one load at its last link.

    Raises:
        InputError: no recording, or one that cannot be used.
    """
    if not recordings:
        raise InputError("no recording without a load; the arm itself must be identified too")
    J = len(links(model))
    nominal = parameters(model).reshape(J, PER_LINK)
    gear = _gains(model)
    sets = [(motion_of(r), False) for r in recordings] + [(motion_of(r), True) for r in loaded]
    unknown = _Unknowns(model, nominal, gear, bool(loaded))
    x = unknown.start()
    weight = spread = np.ones(J)
    changed = np.inf
    rows = [unknown.rows(x, motion, load) for motion, load in sets]
    for number in range(ROUNDS):
        before, x = x, unknown.improved(x, rows, weight)
        rows = [unknown.rows(x, motion, load) for motion, load in sets]
        left = [current - told for _, told, current in rows]
        spread = np.sqrt(np.mean(np.concatenate([np.square(e) for e in left]), axis=0))
        memory = np.mean([_memory(e) for e in left], axis=0)  # samples that count as one
        weight = 1 / (spread * np.sqrt(memory))
        changed = float(np.abs(unknown.told_apart(before, x)).max())
        if number and changed < SETTLED:
            break
    else:
        log.warning("the fit of %s still changes by %.1g in its last of %d rounds", env, changed,
                    ROUNDS)  # fmt: skip
    covariance = np.linalg.inv(unknown.curvature(x, rows, weight))
    theta, friction, gain, load = unknown.parts(x)
    mass = None
    if load is not None:
        at = unknown.mass_of_load
        wide = 1.96 * float(np.sqrt(covariance[at, at]))
        mass = (float(load[0]), float(load[0]) - wide, float(load[0]) + wide)
    return Arm(
        env=env, joints=_joint_names(model), inertia=theta.tolist(), gain=gain.tolist(),
        noise=spread.tolist(), load=None if load is None else load.tolist(), load_mass=mass,
        recordings=tuple(r.name for r in (*recordings, *loaded)),
        **{name: friction[k].tolist() for k, name in enumerate(TERMS)},
    )  # fmt: skip


def relative_error(measured: Array, told: Array, period: float) -> Array:
    """(J,) root mean square of what is left of the filtered current, as a share of its own."""
    rate = 1 / period
    true = _filtered(measured, CUTOFF, rate)
    left = true - _filtered(told, CUTOFF, rate)
    return np.sqrt(np.square(left).mean(axis=0) / np.square(true).mean(axis=0))


def nominal_arm(model: mujoco.MjModel, env: str = "") -> Arm:
    """The arm as its model says it."""
    bodies = links(model)
    dofs = [int(model.jnt_dofadr[model.body_jntadr[b]]) for b in bodies]
    zero = [0.0] * len(bodies)
    return Arm(
        env=env, joints=_joint_names(model),
        inertia=parameters(model).reshape(-1, PER_LINK).tolist(),
        coulomb=model.dof_frictionloss[dofs].tolist(), load_share=zero,
        viscous=model.dof_damping[dofs].tolist(), offset=zero,
        rotor=model.dof_armature[dofs].tolist(), gain=_gains(model).tolist(), noise=zero,
    )  # fmt: skip


def compare_arm(
    model: mujoco.MjModel, recording: Recording, arm: Arm | None = None, *,
    loaded: bool = False, env: str = "",
) -> dict[str, Any]:  # fmt: skip
    """How well the nominal model, and an identified arm, predict the currents of a recording.

    Returns:
        `recording`, its name, and `joints`: for each its name, the root mean square of the measured
        `current` [A], and what `nominal` and `identified` leave of it, see `relative_error`.

    Raises:
        InputError: the recording cannot be used, or the arm is another one.
    """
    motion = motion_of(recording)
    names = _joint_names(model)
    if arm is not None and env and arm.env != env:
        raise InputError(f"the identified arm is '{arm.env}', and these recordings are of '{env}'")
    if arm is not None and arm.joints != names:
        raise InputError(
            f"the identified arm has the joints {', '.join(arm.joints)}; this one has "
            f"{', '.join(names)}"
        )
    arms = {"nominal": (nominal_arm(model), False)}
    if arm is not None:
        arms["identified"] = (arm, loaded)
    left = {
        name: relative_error(
            motion.current, a.current(model, motion, loaded=with_load), motion.period
        )
        for name, (a, with_load) in arms.items()
    }
    size = np.sqrt(np.square(motion.current).mean(axis=0))
    rows = [
        {"joint": joint, "current": float(size[j]), **{n: float(e[j]) for n, e in left.items()}}
        for j, joint in enumerate(names)
    ]
    return {"recording": recording.name, "joints": rows}


def _joint_names(model: mujoco.MjModel) -> tuple[str, ...]:
    return tuple(model.joint(int(model.body_jntadr[b])).name for b in links(model))


class _Unknowns:
    """The vector x of everything unknown, and the posterior's derivatives."""

    def __init__(self, model: mujoco.MjModel, nominal: Array, gear: Array, loaded: bool) -> None:
        self.model, self.nominal, self.gear, self.loaded = model, nominal, gear, loaded
        self.J = len(nominal)
        bodies = [PER_LINK] * self.J + ([PER_LINK] if loaded else [])
        ends = np.cumsum([0, *bodies])
        self.bodies = [slice(a, b) for a, b in pairwise(ends.tolist())]
        n = int(ends[-1])
        self.friction = slice(n, n + len(TERMS) * self.J)
        self.gains = slice(self.friction.stop, self.friction.stop + self.J)
        self.mass_of_load = int(ends[-2]) if loaded else -1
        size = 0.05 * np.abs(gear)  # of friction [N m], to begin with
        self.scale = np.stack([size, 0.05 + 0 * size, size, size, 0.01 * size])  # (5, J)
        basis = np.eye(PER_LINK)
        self.basis = np.stack([pseudo_inertia(e) for e in basis])  # (10, 4, 4)
        self.prior = [*(pseudo_inertia(t) for t in nominal), *([pseudo_inertia(BALL)] * loaded)]
        self.trust = [TRUST] * self.J + [LOAD_TRUST] * loaded

    def told_apart(self, before: Array, after: Array) -> Array:
        """How much masses, viscous friction and gains have changed, as shares."""
        masses = [part.start for part in self.bodies]
        at = self.friction.start + TERMS.index("viscous") * self.J
        positive = [*masses, *range(at, at + self.J)]
        gains = after[self.gains] - before[self.gains]
        return np.concatenate((np.log(after[positive] / before[positive]), gains))

    def start(self) -> Array:
        load = [BALL] if self.loaded else []
        return np.concatenate([self.nominal.ravel(), *load, self.scale.ravel(), np.zeros(self.J)])

    def parts(self, x: Array) -> tuple[Array, Array, Array, Array | None]:
        """θ (J, 10), friction (5, J), gains (J,), θ of the load (10,)."""
        theta = x[: PER_LINK * self.J].reshape(self.J, PER_LINK)
        friction = x[self.friction].reshape(len(TERMS), self.J)
        load = x[self.bodies[-1]] if self.loaded else None
        return theta, friction, self.gear * np.exp(x[self.gains]), load

    def rows(self, x: Array, motion: Motion, loaded: bool) -> tuple[Array, Array, Array]:
        """(T, J, n) derivative of the predicted current, (T, J) prediction, (T, J) measured, each
        filtered."""
        theta, friction, gain, load = self.parts(x)
        Y = regressor(self.model, motion.position, motion.velocity, motion.acceleration)
        whole = theta.copy()
        if loaded and load is not None:
            whole[-1] += load
        body = Y @ whole.ravel()
        T = len(body)
        A = np.zeros((T, self.J, len(x)))
        columns = _friction(motion, body)
        share = friction[TERMS.index("load_share")]
        felt = 1 + np.tanh(motion.velocity / SLOW) * np.sign(body) * share  # d(k·|Y·θ|) too
        A[:, :, : PER_LINK * self.J] = felt[:, :, None] * Y
        if loaded:
            A[:, :, self.bodies[-1]] = felt[:, :, None] * Y[:, :, -PER_LINK:]
        start = self.friction.start
        for j in range(self.J):
            for k in range(len(TERMS)):
                A[:, j, start + k * self.J + j] = columns[:, j, k]
        A[:] /= gain[None, :, None]
        told = (body + np.einsum("tjk,kj->tj", columns, friction)) / gain
        for j in range(self.J):
            A[:, j, self.gains.start + j] = -told[:, j]
        rate = 1 / motion.period
        every = max(1, round(rate / (2.5 * CUTOFF)))
        parts = (A, told, motion.current)
        a, b, c = (_filtered(part, CUTOFF, rate)[::every] for part in parts)
        return a, b, c

    def curvature(self, x: Array, rows: Sequence[tuple[Array, ...]], weight: Array) -> Array:
        """(n, n) of the negative logarithm of the posterior at x."""
        H = sum(_square(A * weight[None, :, None]) for A, *_ in rows)
        return H + self._prior(x)[2]

    def improved(self, x: Array, rows: Sequence[tuple[Array, ...]], weight: Array) -> Array:
        """One minimisation of the quadratic of the data plus the prior, by damped Newton steps."""
        H = sum(_square(A * weight[None, :, None]) for A, *_ in rows)
        g = sum(
            np.einsum("tjn,tj->n", A * weight[None, :, None], (told - current) * weight)
            for A, told, current in rows
        )
        begin = x
        for _ in range(50):
            away = x - begin
            value, slope, bend = self._prior(x)
            gradient = g + H @ away + slope
            step = -np.linalg.solve(H + bend, gradient)
            decrement = float(-gradient @ step)
            if decrement < 1e-9:
                break
            now, length = g @ away + 0.5 * away @ H @ away + value, 1.0
            while True:
                there = x + length * step
                moved = there - begin
                then = g @ moved + 0.5 * moved @ H @ moved + self._prior(there)[0]
                if then <= now - 0.1 * length * decrement or length < 1e-12:
                    break
                length *= 0.5
            x = there
        return x

    def _prior(self, x: Array) -> tuple[float, Array, Array]:
        """Negative logarithm, gradient and curvature; infinite beyond what bodies can have."""
        value, slope, bend = 0.0, np.zeros(len(x)), np.zeros((len(x), len(x)))
        for part, prior, trust in zip(self.bodies, self.prior, self.trust, strict=True):
            P = np.einsum("k,kab->ab", x[part], self.basis)
            sign, log_det = np.linalg.slogdet(P)
            if sign <= 0 or np.linalg.eigvalsh(P).min() <= 0:
                return np.inf, slope, bend
            inverse, known = np.linalg.inv(P), np.linalg.inv(prior)
            value += trust * (np.trace(known @ P) - log_det)
            slope[part] = trust * np.einsum("ab,kba->k", known - inverse, self.basis)
            turned = inverse @ self.basis  # (10, 4, 4)
            bend[part, part] = trust * np.einsum("kab,lba->kl", turned, turned)
        friction = x[self.friction].reshape(len(TERMS), self.J)
        at = self.friction.start
        for k, name in enumerate(TERMS):
            for j in range(self.J):
                i, size, f = at + k * self.J + j, self.scale[k, j], friction[k, j]
                if name == "offset":
                    value += 0.5 * FRICTION_TRUST * (f / size) ** 2
                    slope[i], bend[i, i] = FRICTION_TRUST * f / size**2, FRICTION_TRUST / size**2
                    continue
                if f <= 0:
                    return np.inf, slope, bend
                value += FRICTION_TRUST * (f / size - np.log(f / size))
                slope[i] = FRICTION_TRUST * (1 / size - 1 / f)
                bend[i, i] = FRICTION_TRUST / f**2
        log_gain = x[self.gains]
        value += 0.5 * float(np.square(log_gain / GAIN_SPREAD).sum())
        slope[self.gains] = log_gain / GAIN_SPREAD**2
        index = np.arange(self.gains.start, self.gains.stop)
        bend[index, index] = 1 / GAIN_SPREAD**2
        return value, slope, bend


def _friction(motion: Motion, body: Array) -> Array:
    """(T, J, 5) what friction's parameters multiply; `body` (T, J) is the torque of the links."""
    dry = np.tanh(motion.velocity / SLOW)
    return np.stack(
        [dry, dry * np.abs(body), motion.velocity, np.ones_like(dry), motion.acceleration], axis=2
    )


def _gains(model: mujoco.MjModel) -> Array:
    """(J,) torque for the command of each joint's motor.

    Raises:
        InputError: a joint that no motor drives.
    """
    gains: list[float] = []
    for b in links(model):
        joint = int(model.body_jntadr[b])
        mine = [a for a in range(model.nu) if model.actuator_trnid[a, 0] == joint]
        if len(mine) != 1 or model.actuator_biastype[mine[0]] != int(mujoco.mjtBias.mjBIAS_NONE):
            raise InputError(
                f"joint '{model.joint(joint).name}' needs one motor whose command is a current"
            )
        gains.append(float(model.actuator_gear[mine[0], 0] * model.actuator_gainprm[mine[0], 0]))
    return np.array(gains)


def _filtered(x: Array, cutoff: float, rate: float) -> Array:
    """Along time, without a shift."""
    sections: Any = butter(4, min(cutoff / (rate / 2), 0.99), output="sos")
    return np.asarray(sosfiltfilt(sections, x, axis=0))


def _square(A: Array) -> Array:
    flat = A.reshape(-1, A.shape[2])
    return flat.T @ flat


def _memory(left: Array) -> Array:
    """(T, J) -> (J,) how many consecutive samples say as much as one independent one: the
    integrated autocorrelation time (Sokal 1997, with a window of five times itself)."""
    T = len(left)
    centred = left - left.mean(axis=0)
    spectrum = np.abs(np.fft.rfft(centred, 2 * T, axis=0)) ** 2
    correlation = np.fft.irfft(spectrum, axis=0)[:T]
    correlation /= np.maximum(correlation[0], 1e-300)
    time = 1 + 2 * np.cumsum(correlation[1:], axis=0)
    out = np.ones(left.shape[1])
    for j in range(left.shape[1]):
        inside = np.flatnonzero(np.arange(1, T) >= 5 * time[:, j])
        out[j] = max(1.0, time[inside[0] if len(inside) else -1, j])
    return out
