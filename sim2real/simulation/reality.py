"""What a gap does to the arrays that pass between policy and physics.

Action latency, actuator lag and ξ are in the MuJoCo model; the rest is here. Without a gap no
`Reality` is built, and the pipeline is the identity, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sim2real.simulation.gap import Gap, sample
from sim2real.simulation.terms import Term
from sim2real.types import Array


class Reality:
    """The B robots that worlds drew from a gap: what their actuators and sensors do, with the state
    that this needs. An episode's noise depends on nothing but the seed it was reset with."""

    def __init__(
        self, gap: Gap, rngs: Sequence[np.random.Generator], *, actuators: Sequence[str],
        low: Array, high: Array, rest: Array, dof: Array, servo: Array, terms: Sequence[Term],
        control_period: float,
    ) -> None:  # fmt: skip
        self._size = sum(t.size for t in terms)
        self._noise = Noise(len(rngs), normals=2 * self._size, uniforms=5)
        self._command = CommandPath(gap, rngs, actuators, low, high, dof, rest)
        encoder = sample(gap.mounting.encoder, rngs)
        self._astray = encoder[:, None] * servo  # (B, A)
        self._observation = ObservationPath(gap, rngs, terms, control_period, encoder)
        self._disturbance = Disturbance(gap, rngs, control_period)
        self._normal = np.zeros((len(rngs), 2 * self._size))
        self._uniform = np.zeros((len(rngs), 5))
        self._told = np.zeros((len(rngs), self._size))

    def reset(self, worlds: Array, seeds: Sequence[Sequence[int]], obs: Array) -> Array:
        """Begins episodes in worlds (n,) with their noise seeds. obs (B, O) as it truly is; gives
        (B, O) as it is told, where other worlds keep their latest."""
        self._noise.restart(worlds, seeds)
        first = [np.random.default_rng(np.random.SeedSequence([*seed, 0])) for seed in seeds]
        normal = np.stack([rng.standard_normal(self._size) for rng in first])
        self._command.reset(worlds)
        told = self._told.copy()
        told[worlds] = self._observation.reset(worlds, obs[worlds], normal)
        self._told = told
        return told

    def act(self, action: Array, qvel: Array) -> tuple[Array, Array]:
        """Begins a control step: (B, A) commands and (B, nv) velocities -> what the physics gets,
        (B, A), and (B,) by how much a push changes the velocity of the root [m/s]."""
        self._normal, self._uniform = self._noise.next()
        command = self._command(action, qvel, self._uniform[:, 0])
        command = command - self._astray  # a servo holds what its own encoder says
        return command, self._disturbance(self._uniform[:, 1:3])

    def observe(self, obs: Array) -> Array:
        """Ends the control step: (B, O) as it truly is -> as the policy is told."""
        self._told = self._observation(obs, self._normal, self._uniform[:, 3:5])
        return self._told


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
        low: Array, high: Array, dof: Array, rest: Array | None = None,
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
        self._rest = np.zeros(A) if rest is None else rest
        self._last = np.tile(self._rest, (len(rngs), 1))
        self._play = self._last * self._strength

    def reset(self, worlds: Array) -> None:
        self._last[worlds] = self._rest
        self._play[worlds] = self._rest * self._strength[worlds]

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
        control_period: float, encoder: Array,
    ) -> None:  # fmt: skip
        B, O = len(rngs), sum(t.size for t in terms)
        self._noise, self._offset, self._drift, self._quantum = (np.zeros((B, O)) for _ in range(4))
        imu = sample(gap.mounting.imu, rngs)
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
            if term.mounted == "imu" and term.vector:
                self._turn.append((part, imu))
            elif term.mounted:
                angle = encoder if term.mounted == "encoder" else imu
                self._offset[:, part] += angle[:, None]
        self._walk = np.zeros((B, O))
        self._lag = sample(gap.latency.observation_ms, rngs) / 1000 / control_period  # in periods
        self._jitter = sample(gap.network.jitter_ms, rngs) / 1000 / control_period
        self._loss = sample(gap.network.loss, rngs)
        depth = int(np.ceil((self._lag + self._jitter).max())) + 2
        self._frames = np.zeros((depth, B, O))  # newest first
        self._delivered = np.zeros((B, O))
        self._rows = np.arange(B)

    def reset(self, worlds: Array, obs: Array, normal: Array) -> Array:
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
