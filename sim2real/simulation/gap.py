"""What reality does differently: the gap between the simulator and a robot.

A `Gap` is data. Every number in it may be a value or a distribution, which makes the gap a family
of robots: each world draws its own robot once and keeps it over all its episodes. Physics (ξ),
latency of the action and actuator lag go into the MuJoCo model itself; everything else is a
function on the arrays that pass between policy and physics, in `CommandPath` and
`ObservationPath`. Without a gap neither is built, and the pipeline is the identity, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sim2real.simulation.terms import Term
from sim2real.types import Array, InputError, nearest


@dataclass(frozen=True)
class Draw:
    """A number that differs from robot to robot."""

    distribution: Literal["uniform", "loguniform", "normal"]
    low: float = 0.0
    """Lower end, or the mean of a normal distribution."""
    high: float = 0.0
    """Upper end, or the standard deviation of a normal distribution."""

    def __post_init__(self) -> None:
        if self.distribution == "normal":
            if self.high < 0:
                raise InputError(f"the standard deviation {self.high:g} must not be negative")
        elif self.low > self.high:
            raise InputError(f"low {self.low:g} is above high {self.high:g}")
        if self.distribution == "loguniform" and self.low <= 0:
            raise InputError(f"loguniform needs low above 0, not {self.low:g}")

    def sample(self, rng: np.random.Generator) -> float:
        if self.distribution == "uniform":
            return float(rng.uniform(self.low, self.high))
        if self.distribution == "loguniform":
            return float(np.exp(rng.uniform(np.log(self.low), np.log(self.high))))
        return float(rng.normal(self.low, self.high))


Value = float | Draw


def _within(part: object, names: Sequence[str], high: float = np.inf) -> None:
    """Raises InputError where a number of this part, or an end of its range, is not in [0, high].
    What a normal distribution may give is not looked at."""
    for name in names:
        value = getattr(part, name)
        ends = [value]
        if isinstance(value, Draw):
            ends = [] if value.distribution == "normal" else [value.low, value.high]
        if any(not 0 <= end <= high for end in ends):
            bounds = "must not be negative" if high == np.inf else f"must lie in [0, {high:g}]"
            raise InputError(f"{name} {bounds}")


@dataclass(frozen=True)
class Latency:
    action_ms: Value = 0.0
    """From the command's arrival to the actuator, at the physics steps."""
    observation_ms: Value = 0.0
    """From the sensor to the policy; linear between control periods."""

    def __post_init__(self) -> None:
        _within(self, ("action_ms", "observation_ms"))


@dataclass(frozen=True)
class Actuators:
    strength: Value = 1.0
    """Share of every command that reaches the joint."""
    weak: dict[str, Value] = field(default_factory=dict[str, Value])
    """Actuator name -> its own share, besides `strength`."""
    lag_ms: Value = 0.0
    """Time constant of a first-order lag inside the actuator."""
    backlash: Value = 0.0
    """Half-width of the play between command and joint, in units of the command."""
    stiction: Value = 0.0
    """A joint at rest stays at rest under commands below this share of the full command."""
    stiction_speed: Value = 0.1
    """[rad/s or m/s] below which a joint counts as at rest."""

    def __post_init__(self) -> None:
        _within(self, ("strength", "lag_ms", "backlash", "stiction", "stiction_speed"))


@dataclass(frozen=True)
class Sensor:
    noise: Value = 0.0
    """Standard deviation of white noise, in the term's unit."""
    bias: Value = 0.0
    drift: Value = 0.0
    """Standard deviation of the random walk after one second, in the term's unit."""
    quantization: Value = 0.0
    """Width of one count, in the term's unit."""

    def __post_init__(self) -> None:
        _within(self, ("noise", "drift", "quantization"))


@dataclass(frozen=True)
class Mounting:
    encoder: Value = 0.0
    """Offset of every encoder [rad or m]."""
    imu: Value = 0.0
    """Rotation of the IMU about the pitch axis [rad]."""


@dataclass(frozen=True)
class Pushes:
    interval: Value = 0.0
    """Mean time between pushes [s]; 0 for none."""
    speed: Value = 0.0
    """Change of the velocity of the root's first degree of freedom [m/s], of either sign."""

    def __post_init__(self) -> None:
        _within(self, ("interval",))


@dataclass(frozen=True)
class Network:
    loss: Value = 0.0
    """Probability that a packet is lost, in either direction; the last value stays."""
    jitter_ms: Value = 0.0
    """Extra latency of an observation, uniform from zero to this."""

    def __post_init__(self) -> None:
        _within(self, ("loss",), high=1.0)
        _within(self, ("jitter_ms",))


@dataclass(frozen=True)
class Gap:
    """What a robot does differently from the nominal simulator. See each part."""

    description: str = ""
    xi: dict[str, Value] = field(default_factory=dict[str, Value])
    """Dynamics parameters by name, in their units."""
    latency: Latency = field(default_factory=Latency)
    actuators: Actuators = field(default_factory=Actuators)
    sensors: dict[str, Sensor] = field(default_factory=dict[str, Sensor])
    """Observation term -> what its sensor does."""
    mounting: Mounting = field(default_factory=Mounting)
    pushes: Pushes = field(default_factory=Pushes)
    network: Network = field(default_factory=Network)

    @property
    def lag(self) -> bool:
        """Whether the model needs actuators with a state."""
        return _present(self.actuators.lag_ms)

    def check(self, terms: Mapping[str, Term], actuators: Sequence[str], where: str) -> None:
        """Raises InputError where the gap names a term or an actuator that the robot lacks."""
        for name in self.sensors:
            if name not in terms:
                raise InputError(
                    f"{where}: sensors: no term '{name}'{nearest(name, terms)}; "
                    f"the terms are {', '.join(terms)}"
                )
        for name in self.actuators.weak:
            if name not in actuators:
                raise InputError(
                    f"{where}: actuators: weak: no actuator '{name}'{nearest(name, actuators)}; "
                    f"the actuators are {', '.join(actuators)}"
                )


def _present(value: Value) -> bool:
    return isinstance(value, Draw) or value != 0.0


def sample(value: Value, rngs: Sequence[np.random.Generator]) -> Array:
    """(B,) one draw per robot; a plain value takes nothing from the generators."""
    if isinstance(value, Draw):
        return np.array([value.sample(rng) for rng in rngs])
    return np.full(len(rngs), value)


class Noise:
    """One stream of random numbers per world, restarted by each episode's own seed, so that an
    episode's noise depends on nothing but that seed. Numbers are drawn in blocks of ticks."""

    BLOCK = 64

    def __init__(self, num_worlds: int, normals: int, uniforms: int) -> None:
        self._rng: list[np.random.Generator] = [np.random.default_rng(0)] * num_worlds
        self._normal = np.zeros((num_worlds, self.BLOCK, normals))
        self._uniform = np.zeros((num_worlds, self.BLOCK, uniforms))
        self._tick = np.full(num_worlds, self.BLOCK)

    def restart(self, worlds: Array, seeds: Sequence[Sequence[int]]) -> None:
        for i, seed in zip(worlds, seeds, strict=True):
            self._rng[i] = np.random.default_rng(np.random.SeedSequence(list(seed)))
            self._tick[i] = self.BLOCK

    def next(self) -> tuple[Array, Array]:
        """((B, normals), (B, uniforms)) for one tick."""
        for i in np.flatnonzero(self._tick == self.BLOCK):
            self._normal[i] = self._rng[i].standard_normal(self._normal.shape[1:])
            self._uniform[i] = self._rng[i].random(self._uniform.shape[1:])
            self._tick[i] = 0
        rows = np.arange(len(self._tick))
        out = self._normal[rows, self._tick], self._uniform[rows, self._tick]
        self._tick += 1
        return out


class CommandPath:
    """From the policy's command to what the physics gets: packet loss, strength, backlash,
    stiction, in this order. Latency and lag follow inside the MuJoCo model."""

    def __init__(
        self, gap: Gap, rngs: Sequence[np.random.Generator], names: Sequence[str],
        low: Array, high: Array, dof: Array,
    ) -> None:  # fmt: skip
        a = gap.actuators
        A = len(names)
        self._loss = sample(gap.network.loss, rngs)
        self._strength = sample(a.strength, rngs)[:, None] * np.ones(A)  # (B, A)
        for name, value in a.weak.items():
            self._strength[:, names.index(name)] *= sample(value, rngs)
        self._backlash = sample(a.backlash, rngs)[:, None]
        self._stiction = sample(a.stiction, rngs)[:, None] * np.maximum(abs(low), abs(high))
        self._speed = sample(a.stiction_speed, rngs)[:, None]
        self._dof = dof  # (A,) the degree of freedom that each actuator drives
        self._last = np.zeros((len(rngs), A))
        self._play = np.zeros((len(rngs), A))

    def reset(self, worlds: Array) -> None:
        self._last[worlds] = 0.0
        self._play[worlds] = 0.0

    def __call__(self, action: Array, qvel: Array, uniform: Array) -> Array:
        """(B, A), (B, nv), (B,) in [0, 1) -> (B, A)."""
        lost = uniform < self._loss
        u = np.where(lost[:, None], self._last, action)
        self._last = u
        u = u * self._strength
        # play operator: the output follows the input only once the play is used up
        self._play = np.clip(self._play, u - self._backlash, u + self._backlash)
        u = self._play
        resting = np.abs(qvel[:, self._dof]) < self._speed
        return np.where(resting & (np.abs(u) < self._stiction), 0.0, u)


class ObservationPath:
    """From what is true to what the policy is told: mounting, bias and drift, latency and jitter,
    noise, quantisation, packet loss, in this order."""

    def __init__(
        self, gap: Gap, rngs: Sequence[np.random.Generator], terms: Sequence[Term],
        control_period: float,
    ) -> None:  # fmt: skip
        B, O = len(rngs), sum(t.size for t in terms)
        self._noise, self._offset, self._drift, self._quantum = (np.zeros((B, O)) for _ in range(4))
        encoder, imu = sample(gap.mounting.encoder, rngs), sample(gap.mounting.imu, rngs)
        self._turn: list[tuple[slice, Array]] = []
        start = 0
        for term in terms:
            part = slice(start, start + term.size)
            start += term.size
            if term.name in gap.sensors:
                s = gap.sensors[term.name]
                self._noise[:, part] = sample(s.noise, rngs)[:, None]
                self._offset[:, part] = sample(s.bias, rngs)[:, None]
                self._drift[:, part] = sample(s.drift, rngs)[:, None] * np.sqrt(control_period)
                self._quantum[:, part] = sample(s.quantization, rngs)[:, None]
            if term.sensor == "encoder" and term.qpos:
                self._offset[:, part] += encoder[:, None]
            if term.sensor == "imu" and term.vector:
                self._turn.append((part, imu))
            elif term.sensor == "imu" and term.qpos:
                self._offset[:, part] += imu[:, None]
        self._walk = np.zeros((B, O))
        self._lag = sample(gap.latency.observation_ms, rngs) / 1000 / control_period  # in periods
        self._jitter = sample(gap.network.jitter_ms, rngs) / 1000 / control_period
        self._loss = sample(gap.network.loss, rngs)
        depth = int(np.ceil((self._lag + self._jitter).max())) + 2
        self._frames = np.zeros((depth, B, O))  # newest first
        self._delivered = np.zeros((B, O))
        self._rows = np.arange(B)

    def reset(self, worlds: Array, obs: Array, normal: Array, uniform: Array) -> Array:
        """First observation of new episodes: there is no older frame yet. (n, O) -> (n, O)."""
        self._walk[worlds] = 0.0
        true = self._mounted(obs, worlds) + self._offset[worlds]
        self._frames[:, worlds] = true
        self._delivered = self._delivered.copy()  # what was given out stays as it was
        self._delivered[worlds] = self._digitized(true, normal, worlds)
        return self._delivered[worlds]

    def __call__(self, obs: Array, normal: Array, uniform: Array) -> Array:
        """(B, O), (B, 2·O) standard normal, (B, 2) in [0, 1) -> (B, O)."""
        O = obs.shape[1]
        self._walk += self._drift * normal[:, O:]
        self._frames = np.roll(self._frames, 1, axis=0)
        self._frames[0] = self._mounted(obs, self._rows) + self._offset + self._walk
        age = self._lag + self._jitter * uniform[:, 0]  # (B,) in control periods
        newer = np.floor(age).astype(int)
        share = (age - newer)[:, None]
        late = (1 - share) * self._frames[newer, self._rows]
        late += share * self._frames[newer + 1, self._rows]
        told = self._digitized(late, normal[:, :O], self._rows)
        lost = uniform[:, 1] < self._loss
        self._delivered = np.where(lost[:, None], self._delivered, told)
        return self._delivered

    def _digitized(self, obs: Array, normal: Array, worlds: Array) -> Array:
        noisy = obs + self._noise[worlds] * normal[:, : obs.shape[1]]
        quantum = self._quantum[worlds]
        counts = np.round(noisy / np.where(quantum > 0, quantum, 1.0))
        return np.where(quantum > 0, counts * quantum, noisy)

    def _mounted(self, obs: Array, worlds: Array) -> Array:
        if not self._turn:
            return obs
        obs = obs.copy()
        for part, angle in self._turn:
            x, y, z = np.moveaxis(obs[:, part], 1, 0)
            c, s = np.cos(angle[worlds]), np.sin(angle[worlds])
            obs[:, part] = np.stack([c * x - s * z, y, s * x + c * z], axis=1)
        return obs


class Disturbance:
    """Pushes: at random times the root's first degree of freedom changes its velocity."""

    def __init__(self, gap: Gap, rngs: Sequence[np.random.Generator], period: float) -> None:
        interval = sample(gap.pushes.interval, rngs)
        self._chance = np.where(interval > 0, period / np.where(interval > 0, interval, 1.0), 0.0)
        self._speed = sample(gap.pushes.speed, rngs)

    def __call__(self, uniform: Array) -> Array:
        """(B, 2) in [0, 1) -> (B,) change of velocity [m/s]."""
        sign = np.where(uniform[:, 1] < 0.5, -1.0, 1.0)
        return np.where(uniform[:, 0] < self._chance, sign * self._speed, 0.0)


def to_plain(gap: Gap) -> dict[str, Any]:
    """The gap as plain data, for logs."""
    from dataclasses import asdict

    return asdict(gap)
