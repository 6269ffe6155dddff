"""Adaptation on a target: what of a policy's z is found how, and whether it helps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from numbers import Real
from pathlib import Path
from typing import Literal, get_args

from sim2real import content, progress
from sim2real.adaptation.remembered import Remembered
from sim2real.adaptation.session import Adaptation, Method, Session
from sim2real.adaptation.stepped import Stepped
from sim2real.adaptation.told import Identify, Search
from sim2real.deploy.files import write_atomically
from sim2real.deploy.robots.udp import UdpRobot
from sim2real.deploy.safety import Wiring
from sim2real.evaluate import observation_names, policy_of
from sim2real.export import build_contract, check_terms, export
from sim2real.make import check_whole
from sim2real.policy.policy import Policy
from sim2real.record import record
from sim2real.serve import served
from sim2real.simulation.robot import Robot
from sim2real.types import InputError, nearest

Engine = Literal["identify", "search"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


def adapt(
    policy: Policy | str | Path,
    target: str | Path,
    *,
    episodes: int = 10,
    seconds: float | None = None,
    seed: int = 0,
    engine: Engine = "identify",
    excitation: float = 0.1,
    out: str | Path | None = None,
) -> Adaptation:
    """Finds the z of a policy on a target, and decides whether it helps.

    The policy leaves as a verified artifact and drives the target over the wire. With `identify`,
    four tenths of the episodes gather data, with bounded noise on the commands; the logs are
    explained by simulation; the context is rehearsed in worlds drawn from the posterior; and the
    remaining episodes alternate between the old context and the new one. Where the target has no
    reward, or is a log, held-out windows of the log decide instead. When it does not help, the
    old context stays.

    With `search`, every context is rehearsed before the robot is driven with it, in worlds around
    what it claims (`around`); one with which falls become more likely is never driven.

    A policy with a memory finds out while it acts: it drives four tenths of the episodes as one
    trial, and what it then remembers is compared with nothing remembered, in the remaining episodes
    by turns. One with fast numbers is compared likewise, after gradient steps on what it foretold,
    made after each of the first episodes. Where the target has no reward, falls per second decide.

    Args:
        target: `HOST:PORT` of a robot; a log or a folder of logs; or `ENV/GAP`, a simulated robot
            that is then served by a process of its own. This process never sees its ξ.
        episodes: target episodes that may be used, gate and search included.
        seconds: target seconds that may be used; None sets no such limit.
        engine: of a context: `identify`, or `search`, which optimises the episode return by black
            box; the target must have a reward, and be no log.
        excitation: standard deviation of the noise on commands while data is gathered, to identify
            a context or for gradient steps, as a share of half their range.
        out: folder for artifact, logs, posterior.json, z.json and adaptation.json; default
            runs/<policy>-adapt.

    Raises:
        InputError: the policy has nothing to adapt, the target is not there, another
            robot or without the reward that a search needs, or an argument is not what it may be;
            nothing has been driven or written then.
        SafetyStop: the controller stopped the target, and not because it was about to fall.
    """
    policy = policy_of(policy)
    _check_arguments(policy, target, episodes, seconds, seed, engine, excitation)
    out = folder_of(policy, out)
    robot = Robot.load(policy.spec.env)
    method = _method(policy, robot, engine, seed, excitation)
    observation_names(policy, robot)
    with progress.bar("adapt", 100) as report:
        if (logs := _log_path(target)) is not None:
            result = method.from_logs(logs, lambda: export(policy, out / "artifact"), report)
        else:
            with address_of(target, seed) as where, closing(UdpRobot(*where)) as connection:
                method.check(connection.describe(), connection.address)
                check_terms(policy.spec)
                recorded = record(policy, robot)
                contract = build_contract(policy.spec, recorded)
                Wiring.join(contract, connection.describe())  # another robot: nothing is written
                artifact = export(policy, out / "artifact", recorded)
                session = Session(artifact, connection, out, seed=seed, seconds=seconds)
                result = method.on(session, episodes, report)
    result.z.write(out / "z.json")
    (out / "posterior.json").unlink(missing_ok=True)  # of an earlier adaptation
    if result.posterior is not None:
        result.posterior.save(out / "posterior.json")
    text = json.dumps(result.to_dict(), indent=2) + "\n"
    write_atomically(out / "adaptation.json", text.encode())
    return result


def folder_of(policy: Policy, out: str | Path | None) -> Path:
    """Where an adaptation writes."""
    return Path("runs") / f"{policy.spec.name}-adapt" if out is None else Path(out)


def _method(policy: Policy, robot: Robot, engine: Engine, seed: int, excitation: float) -> Method:
    """How the z of this policy is found. Raises InputError where it has none, or not by engine."""
    if "context" in policy.z_names:
        if engine == "search":
            return Search(policy, robot, seed)
        return Identify(policy, robot, seed, excitation)
    finds = {
        "memory": (lambda: Remembered(policy), "it finds out while it acts"),
        "fast": (lambda: Stepped(policy, robot, seed, excitation), "gradient steps find it out"),
    }
    for name, (method, how) in finds.items():
        if name in policy.z_names:
            if engine == "search":
                raise InputError(
                    f"search is for a context, and policy '{policy.spec.name}' has none: {how}; "
                    "leave engine out"
                )
            return method()
    raise InputError(
        f"policy '{policy.spec.name}' has no context to adapt, no memory and no fast numbers; "
        "train one with adapt: context, adapt: memory or adapt: gradient"
    )


def _check_arguments(
    policy: Policy, target: object, episodes: int, seconds: float | None, seed: int, engine: str,
    excitation: float,
) -> None:  # fmt: skip
    if not isinstance(target, str | os.PathLike):
        raise InputError(f"target is {target!r}; it must be HOST:PORT, ENV/GAP, or a path of logs")
    if episodes in (0, 1, 2):
        raise InputError(
            f"episodes is {episodes}; adaptation needs at least 3: one to gather, two to compare"
        )
    check_whole("episodes", episodes, 3)
    check_whole("seed", seed, 0, 2**32 - 1)  # what CMA-ES takes
    period = policy.spec.control_period
    if seconds is not None and not (isinstance(seconds, Real) and seconds >= period):
        raise InputError(
            f"seconds is {seconds!r}; it must be at least one control period, {period:g} s"
        )
    if engine not in ENGINES:
        raise InputError(
            f"engine is {engine!r}; it must be {' or '.join(ENGINES)}"
            f"{nearest(str(engine), ENGINES)}"
        )
    if not (isinstance(excitation, Real) and 0 <= excitation <= 1):
        raise InputError(
            f"excitation is {excitation!r}; it is a share of half the command range, 0 to 1"
        )


@contextmanager
def address_of(target: str | Path, seed: int = 0) -> Iterator[tuple[str, int]]:
    """(host, port) of a target; `ENV/GAP` is served as long as the context lasts.

    Raises:
        InputError: it is neither an address nor an env with a gap.
    """
    host, _, port = str(target).rpartition(":")
    if host and port.isdigit():
        if not 0 < int(port) < 65536:
            raise InputError(f"target '{target}': a port lies in 1 to 65535")
        yield host, int(port)
        return
    env, _, gap = str(target).rpartition("/")
    if not env:
        known = ", ".join(content.env_names())
        raise InputError(
            f"target '{target}' is no HOST:PORT, no log, and no ENV/GAP such as hopper/worn; "
            f"the shipped envs are {known}"
        )
    # Only whether it exists: what the gap says, its ξ above all, is for the other process to read.
    content.gap_file(env, gap)
    with served(env, gap=gap, seed=seed) as where:
        host, _, port = where.rpartition(":")
        yield host, int(port)


def _log_path(target: str | Path) -> Path | None:
    path = Path(target)
    return path if path.suffix == ".npz" or (path.is_dir() and any(path.glob("*.npz"))) else None
