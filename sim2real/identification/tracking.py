"""Where the robot was while it logged: a simulator that follows a log, and what surprises it.

A log says what noisy sensors saw, never the whole state. Under given physics ξ the state is
estimated as the log goes on, by a Kalman filter whose derivatives are central differences of the
simulation itself (the first-order divided-difference filter of Nørgaard, Poulsen and Ravn 2000), so
that it needs no model but the simulator's:

    x̂⁻ = f_ξ(x̂, u)      ν = y - h(x̂⁻)      x̂ = x̂⁻ + G ν

The gain G weighs sensors against simulator. The innovations ν are what the simulator did not
foresee. Under the true ξ they are white and have the covariance S that the filter states, so their
likelihood is that of the whole log (prediction-error decomposition, Schweppe 1965).

What the simulator gets wrong in ways that no ξ explains is taken for `drift`, a random change of
every velocity in every control step. It sets how long the past counts: without it, as long as the
log; the more of it, the sooner the estimate is led by the sensors again.

With the gains fixed, following the log costs one world for each ξ: that is how many candidates are
held against one log (the innovations form of a predictor, Ljung 1999, section 4.3).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from sim2real.identification.tangent import Coordinates
from sim2real.identification.windows import Trajectory, differences, usable
from sim2real.simulation.engine import Engine, make_engine
from sim2real.simulation.robot import Robot
from sim2real.simulation.unstable import may_diverge
from sim2real.simulation.worlds import needed_fields
from sim2real.types import Array, InputError, LoggedState

SPREAD = 3.0**0.5
"""Of the central differences, in standard deviations: right to the third order for normal errors
(Nørgaard et al. 2000)."""
PLACE, SPEED = 0.1, 1.0
"""Deviations of a coordinate [m or rad] and of a velocity [m/s or rad/s] that nothing measures, as
an episode begins."""
LEAST_NOISE = 1e-4
"""Of a sensor, as a share of how much its values move: what is read is rounded at least so much."""
FARTHEST = 20.0
"""Standard deviations beyond which a surprise counts no more: a simulation that went astray."""
BEYOND = 2.0
"""Standard deviations from which on an innovation counts less when likelihoods are compared."""
FIRST_DRIFT, LEAST_DRIFT = 1.0, 0.02
"""Drift that is supposed at first, when ξ is wrong, and at least: with less the past counts so long
that single contacts decide."""
JUMP = 4.0
"""Deviations of νᵀS⁻¹ν above its mean from which on the filter was too sure, as after a contact
that came a step early: the state's covariance is widened until it was not."""
FEW = 256
"""Worlds below which one thread steps them."""
ASTRAY = 1e3
"""What a diverged simulation says is no larger [m, rad, m/s, rad/s], and its sensors' values no
larger than so many times what was logged."""
OPEN = 100
"""Control steps from which is read by how much velocities change in one."""


class Supposed(NamedTuple):
    """What a filter is told of what it cannot see."""

    drift: float
    """Share of how much velocities change in a control step."""
    noise: Array
    """(D,) deviation of every column's white noise."""


class Track(NamedTuple):
    """A log, followed under one ξ."""

    supposed: Supposed
    gain: Array
    """(E, T, 2·nv, D) what an innovation corrects, in the tangent space of (qpos, qvel)."""
    root: Array
    """(E, T, D, D) Cholesky factor of the innovations' covariance."""
    innovation: Array
    """(E, T, D); NaN after an episode's end."""
    log_likelihood: float
    """Of the innovations, those beyond BEYOND deviations counted linearly (Huber 1964)."""

    @property
    def unforeseen(self) -> float:
        """Size of the innovations: geometric mean over the columns of their median."""
        median = np.nanmedian(np.abs(self.innovation), axis=(0, 1))
        return float(np.exp(np.log(median + 1e-300).mean()))

    @property
    def noise(self) -> Array:
        """(D,) the sensors' noise that the innovations show: under a right gain
        E[(y - h(x̂)) νᵀ] = R."""
        there: Array = np.isfinite(self.innovation[..., 0])
        nu, root = self.innovation[there], self.root[there]
        solved = np.linalg.solve(root @ root.swapaxes(1, 2), nu[..., None])[..., 0]
        before = self.supposed.noise
        shown = np.sqrt(np.maximum((before**2 * solved * nu).mean(axis=0), 0.0))
        return np.clip(shown, before / 2, before * 2)


class Tracker:
    """Logged episodes of one robot, and worlds that follow them: `ticks` control steps of each.

    Args:
        threads: that step the worlds; 0 is as many as OMP_NUM_THREADS says, one per core where it
            says nothing, and one for few worlds, which two would spend waiting for each other.

    Raises:
        InputError: the log determines nothing of this robot's state, has no usable episode, or
            holds a value that is not finite.
    """

    def __init__(
        self, robot: Robot, episodes: Sequence[Trajectory], *, ticks: int = 200, least: int = 12,
        threads: int = 0,
    ) -> None:  # fmt: skip
        robot, episodes = usable(robot, episodes, least)
        self.robot, self.E = robot, len(episodes)
        self._threads = threads or int((os.environ.get("OMP_NUM_THREADS") or "0").split(",")[0])
        self.T = min(ticks, max(len(e.command) for e in episodes))
        self.derived = self._derived(episodes)
        known = [robot.terms[n] for n in episodes[0].obs if n in robot.terms]
        self.terms = [t for t in known if t.sensor != "command" and t.name not in self.derived]
        self.D = sum(t.size for t in self.terms)
        if not self.terms:
            raise self._says_nothing(0, episodes[0])
        model = robot.model
        self._coordinates = Coordinates(model)
        self.n = 2 * model.nv
        self.logged = np.full((self.E, self.T + 1, self.D), np.nan)
        """(E, T + 1, D) what is followed; NaN after an episode's end."""
        self._command = np.tile(np.array(robot.task.rest, float), (self.E, self.T, 1))
        for e, episode in enumerate(episodes):
            n = min(self.T, len(episode.command))
            self._command[e, :n] = episode.command[:n]
            self.logged[e, : n + 1] = np.concatenate(
                [episode.obs[t.name][: n + 1] for t in self.terms], axis=1
            )
        self._fields = needed_fields(robot, self.terms)
        self._engines: dict[int, Engine] = {}
        self.noise = self._rough()
        """(D,) deviation of every column's white noise, by its third differences, in which motion
        that is smooth over four control steps leaves nothing; of other motion they say too much."""
        self._qpos, self._qvel, self._uncertain, self._seen = self._begin(episodes)
        self._change = self._typical_change()
        """(nv,) by how much velocities change in a control step."""

    def _derived(self, episodes: Sequence[Trajectory]) -> list[str]:
        """Rates that are differences of a logged position: they say nothing that it does not."""
        period = self.robot.control_period
        found = [set(differences(e, period)) for e in episodes]
        return sorted(set.intersection(*found))

    @property
    def columns(self) -> list[str]:
        return [t.name for t in self.terms for _ in range(t.size)]

    def _rough(self) -> Array:
        third = np.diff(self.logged, 3, axis=1).reshape(-1, self.D)
        spread = np.nanstd(third, axis=0) / np.sqrt(20.0)
        moves = np.nanstd(self.logged.reshape(-1, self.D), axis=0)
        return np.maximum(spread, np.maximum(LEAST_NOISE * moves, 1e-6))

    def _begin(self, episodes: Sequence[Trajectory]) -> tuple[Array, Array, Array, Array]:
        """Where episodes begin as far as the log says: qpos (E, nq), qvel (E, nv), the deviation
        (2·nv,) of both, and that of the sensors that say so, 0 where none does."""
        robot, nv = self.robot, self._coordinates.nv
        first = self._read_first(episodes)
        qpos = np.tile(robot.task.init_qpos, (self.E, 1))
        qvel = np.zeros((self.E, nv))
        uncertain = np.concatenate([np.full(nv, PLACE), np.full(nv, SPEED)])
        seen = np.zeros(2 * nv)
        for e, state in enumerate(first):
            qpos[e, state.known_qpos] = state.qpos[0, state.known_qpos]
            qvel[e, state.known_qvel] = state.qvel[0, state.known_qvel]
        begin = 0
        for term in self.terms:
            noise = self.noise[begin : begin + term.size]
            begin += term.size
            for entry, size in zip(term.qvel, noise, strict=False):
                seen[nv + entry] = size
            for entry, size in zip(term.qpos, noise, strict=False):
                seen[self._dof(entry)] = size
        return qpos, qvel, np.where(seen > 0, 2 * seen, uncertain), seen

    def _read_first(self, episodes: Sequence[Trajectory]) -> list[LoggedState]:
        first: list[LoggedState] = []
        for number, episode in enumerate(episodes):
            seen = {t.name: episode.obs[t.name] for t in self.terms}
            state = self.robot.state_from(seen)
            if state is None:
                raise self._says_nothing(number, episode)
            first.append(state)
        return first

    def _says_nothing(self, number: int, episode: Trajectory) -> InputError:
        return InputError(
            f"{self.robot.name}: the logged terms ({', '.join(episode.obs)}) determine nothing of "
            f"its state (episode {number}); log joint positions and velocities"
        )

    def _dof(self, entry: int) -> int:
        """The degree of freedom of an entry of qpos that is one number."""
        model = self.robot.model
        joint = int(np.searchsorted(model.jnt_qposadr, entry, side="right")) - 1
        return int(model.jnt_dofadr[joint] + entry - model.jnt_qposadr[joint])

    @may_diverge()
    def _typical_change(self) -> Array:
        """(nv,) root mean square, nominal physics under the logged commands; what a velocity begins
        with and rounding at least."""
        engine, step = self._start(np.array(self.robot.space.nominal)[None], 1)
        data, change = engine.data, list[Array]()
        for t in range(min(OPEN, self.T)):
            before = data["qvel"].copy()
            step(t)
            change.append(data["qvel"] - before)
        size = np.sqrt(np.square(np.concatenate(change)).mean(axis=0))
        return np.maximum(size, 0.01 * size.max(initial=0.0) + 1e-6)

    def _start(self, xi: Array, copies: int) -> tuple[Engine, Callable[[int], None]]:
        """(N, K) physics -> worlds (N·E·copies) where the episodes begin, and what makes the step
        that tick t commands."""
        robot, N = self.robot, len(xi)
        B, each = N * self.E * copies, self.E * copies
        if B not in self._engines:
            threads = self._threads or (1 if B < FEW else 0)
            self._engines[B] = make_engine(
                "mjbatch", robot.compile(), B, self._fields, threads, robot.task.rest
            )
        engine, space, worlds = self._engines[B], robot.space, np.arange(B)
        whole, late = space.whole_delays(np.repeat(xi, each, axis=0))
        engine.set_model(worlds, space.values(whole), space.needs_const)
        data = engine.data
        data["last_action"] = np.tile(robot.task.rest, (B, 1)).astype(float)
        data["goal"] = np.zeros((B, len(robot.task.goal_names)))

        def spread(x: Array) -> Array:
            return np.tile(np.repeat(x, copies, axis=0), (N, 1))

        engine.reset(worlds, spread(self._qpos), spread(self._qvel))
        skip, between = robot.config.frame_skip, bool(late.any())

        def step(t: int) -> None:
            command, before = spread(self._command[:, t]), data["last_action"]
            if between:  # the rest of a step, as its mean over the physics step that it ends in
                engine.step((1 - late) * command + late * before, 1)
                if skip > 1:
                    engine.step(command, skip - 1)
            else:
                engine.step(command, skip)
            data["last_action"][:] = command

        return engine, step

    def _read(self, engine: Engine) -> Array:
        return np.concatenate([term.read(engine.data) for term in self.terms], axis=1)

    @may_diverge()
    def follow(
        self, xi: Array, supposed: Sequence[Supposed], logged: Array | None = None
    ) -> list[Track]:
        """The log under physics (K,), a track for each of F that are supposed; or each under
        physics of its own, (F, K). Of `logged` (F, E, T + 1, D) instead of the log where given."""
        E, T, D, n, F = self.E, self.T, self.D, self.n, len(supposed)
        c, S = self._coordinates, 1 + 2 * n
        engine, step = self._start(np.broadcast_to(xi, (F, xi.shape[-1])), S)
        data = engine.data
        qpos, qvel = np.tile(self._qpos, (F, 1)), np.tile(self._qvel, (F, 1))  # (F·E, ...)
        state = np.tile(np.diag(self._uncertain**2), (F * E, 1, 1))  # its covariance
        added = np.zeros((F, n, n))
        drifts = [s.drift for s in supposed]
        added[:, range(c.nv, n), range(c.nv, n)] = np.outer(drifts, self._change) ** 2
        added = np.repeat(added, E, axis=0)
        seen = np.repeat(np.stack([np.diag(s.noise**2) for s in supposed]), E, axis=0)
        given = self.logged if logged is None else logged
        followed = np.broadcast_to(given, (F, *self.logged.shape)).reshape(F * E, T + 1, D)
        farthest = ASTRAY * np.maximum(np.nanmax(np.abs(followed), axis=(0, 1)), 1.0)
        jump = D + JUMP * (2 * D) ** 0.5
        gain = np.zeros((F * E, T, n, D))
        root = np.tile(np.eye(D), (F * E, T, 1, 1))
        innovation = np.full((F * E, T, D), np.nan)
        for t in range(T):
            L = SPREAD * _root(state + added).swapaxes(
                1, 2
            )  # (F·E, n, n), a row for each direction
            away = np.concatenate([np.zeros((F * E, 1, n)), L, -L], axis=1)
            data["qpos"][:] = c.moved(qpos[:, None], away[..., : c.nv]).reshape(-1, c.nq)
            data["qvel"][:] = (qvel[:, None] + away[..., c.nv :]).reshape(-1, c.nv)
            step(t)
            told = self._read(engine).reshape(F * E, S, D)
            q, v = data["qpos"].reshape(F * E, S, -1), data["qvel"].reshape(F * E, S, -1)
            out = np.concatenate([c.between(q[:, :1], q), v - v[:, :1]], axis=2)  # (F·E, S, n)
            out = np.clip(np.nan_to_num(out), -ASTRAY, ASTRAY)
            told = np.clip(np.nan_to_num(told), -farthest, farthest)
            ahead, behind = slice(1, 1 + n), slice(1 + n, S)
            went = (out[:, ahead] - out[:, behind]) / (2 * SPREAD)  # (F·E, n, n)
            showed = (told[:, ahead] - told[:, behind]) / (2 * SPREAD)  # (F·E, n, D)
            nu = followed[:, t + 1] - told[:, 0]
            held = np.where(np.isfinite(nu), nu, 0.0)[..., None]  # (F·E, D, 1)
            covariance = _regular(showed.swapaxes(1, 2) @ showed + seen)
            size = (held * np.linalg.solve(covariance, held)).sum(axis=1)  # (F·E, 1)
            wider = np.sqrt(np.maximum(size / jump, 1.0))[..., None]
            went, showed = wider * went, wider * showed
            covariance = _regular(showed.swapaxes(1, 2) @ showed + seen)
            G = np.linalg.solve(covariance, showed.swapaxes(1, 2) @ went).swapaxes(1, 2)
            state = went.swapaxes(1, 2) @ went - G @ covariance @ G.swapaxes(1, 2)
            gain[:, t], innovation[:, t], root[:, t] = G, nu, np.linalg.cholesky(covariance)
            moved = (G @ held)[..., 0]
            qpos = c.moved(q[:, 0], moved[:, : c.nv])
            qvel = v[:, 0] + moved[:, c.nv :]
        tracks: list[Track] = []
        for f, one in enumerate(supposed):
            mine = slice(f * E, (f + 1) * E)
            there: Array = np.isfinite(innovation[mine, :, 0])
            w = whitened(innovation[mine], root[mine])[there]
            size = np.log(np.diagonal(root[mine], axis1=2, axis2=3)[there]).sum()
            likelihood = float(-_huber(w).sum() - size)
            tracks.append(Track(one, gain[mine], root[mine], innovation[mine], likelihood))
        return tracks

    def residual(self, surprise: Array, track: Track) -> dict[str, float]:
        """Term -> root mean square of what one candidate did not foresee of it, in its unit, from
        its surprise (E, T, D)."""
        return self.by_term(np.einsum("etab,etb->eta", track.root, surprise))

    def by_term(self, values: Array) -> dict[str, float]:
        """Term -> root mean square of its columns in values (..., D)."""
        columns = np.array(self.columns)
        return {
            t.name: float(np.sqrt(np.nanmean(np.square(values[..., columns == t.name]))))
            for t in self.terms
        }

    @may_diverge()
    def imagined(self, xi: Array, noise: Array, rng: np.random.Generator) -> Array:
        """(N, E, T + 1, D) what robots of physics (N, K), begun where the log begins, would have
        logged under its commands with white noise (D,); NaN after an episode's end."""
        N, E, c = len(xi), self.E, self._coordinates
        engine, step = self._start(xi, 1)
        data, logged = engine.data, np.full((N, E, self.T + 1, self.D), np.nan)
        away = self._seen * rng.standard_normal((N * E, self.n))
        data["qpos"][:] = c.moved(data["qpos"], away[:, : c.nv])
        data["qvel"] += away[:, c.nv :]
        logged[:, :, 0] = self.logged[:, 0]
        for t in range(self.T):
            step(t)
            logged[:, :, t + 1] = self._read(engine).reshape(N, E, -1)
        logged[:, :, 1:] += noise * rng.standard_normal(logged[:, :, 1:].shape)
        logged[:, ~np.isfinite(self.logged)] = np.nan
        return logged

    @may_diverge()
    def surprise(self, xi: Array, track: Track, logged: Array | None = None) -> Array:
        """(N, K) candidates -> (N, E, T, D) innovations with the gains of a track, each over its
        deviation; NaN where there is no data. Of the log, or of `logged` (N, E, T + 1, D), one for
        each candidate."""
        N, E, c = len(xi), self.E, self._coordinates
        logged = self.logged if logged is None else logged
        engine, step = self._start(xi, 1)
        data = engine.data
        innovation = np.full((N, E, self.T, self.D), np.nan)
        for t in range(self.T):
            step(t)
            nu = logged[..., t + 1, :] - self._read(engine).reshape(N, E, -1)
            innovation[:, :, t] = nu
            held = np.where(np.isfinite(nu), nu, 0.0)
            moved = np.einsum("ead,ned->nea", track.gain[:, t], held).reshape(N * E, -1)
            data["qpos"][:] = c.moved(data["qpos"], moved[:, : c.nv])
            data["qvel"] += moved[:, c.nv :]
        return whitened(innovation, track.root)


def whitened(innovation: Array, root: Array) -> Array:
    """(..., E, T, D) over the factor (E, T, D, D) of its covariance, at most FARTHEST."""
    there = np.isfinite(innovation)
    clean = np.where(there, innovation, 0.0)[..., None]
    root = np.broadcast_to(root, (*clean.shape[:-2], *root.shape[-2:]))
    white = np.clip(np.linalg.solve(root, clean)[..., 0], -FARTHEST, FARTHEST)
    return np.where(there, white, np.nan)


def _huber(white: Array) -> Array:
    """Half the square, beyond BEYOND on along its tangent: single contacts that come early would
    otherwise decide what the noise is."""
    size = np.abs(white)
    return np.where(size < BEYOND, size**2 / 2, BEYOND * (size - BEYOND / 2))


def _regular(P: Array) -> Array:
    """Covariances (F, D, D) in which rounding hides no direction."""
    small = 1e-12 * np.einsum("fii->fi", P).max(axis=1)
    return P + small[:, None, None] * np.eye(P.shape[1])


def _root(P: Array) -> Array:
    """(F, n, n) lower Cholesky factors of symmetric matrices that rounding may have made slightly
    indefinite."""
    even = (P + P.swapaxes(1, 2)) / 2
    small = 1e-12 * np.einsum("fii->fi", even).max(axis=1) + 1e-18
    even += small[:, None, None] * np.eye(even.shape[1])
    try:
        return np.linalg.cholesky(even)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(even)
        half = vectors * np.sqrt(np.maximum(values, small[:, None]))[:, None, :]
        return np.linalg.qr(half.swapaxes(1, 2)).R.swapaxes(1, 2)
