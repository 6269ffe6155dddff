"""What a folder of policies/ holds beside its recipe: the artifact, named as it, and a film.

    python tools/ship_policy.py RUN policies/hopper-student --beside REFERENCE --film hop.gif

The film shows one robot of a family from the same start: the policy of the run beside a reference,
or, where gradient steps tell a policy what its robot is like and `sim2real adapt` keeps what they
found on that robot, before any step and after. The card's words and tables are written by hand.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from sim2real.adapt import adapt, address_of
from sim2real.deploy.files import write_atomically
from sim2real.deploy.verify import verify
from sim2real.export import export
from sim2real.film import Film, film, gif, side_by_side
from sim2real.policy.policy import Policy
from sim2real.simulation.robot import Robot
from sim2real.types import InputError

SECONDS = 8.0
"""Of a film."""


def films(policy: Policy, beside: Policy | None, gap: str, seed: int, out: Path) -> dict[str, Film]:
    """Title -> film."""
    robot = Robot.load(policy.spec.env)
    if "fast" in policy.z_names:
        with address_of(f"{policy.spec.env}/{gap}", seed) as (host, port):
            found = adapt(policy, f"{host}:{port}", seed=seed, out=out)
        if found.accepted:
            told = {"before": {}, "after": {"fast": np.array(found.z.value)}}
            return {
                f"{policy.spec.name}, {when}": film(robot, policy, gap, z, SECONDS, seed=seed)
                for when, z in told.items()
            }
    both = [policy] if beside is None else [beside, policy]
    return {p.spec.name: film(robot, p, gap, {}, SECONDS, seed=seed) for p in both}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path, help="of policies/")
    parser.add_argument("--beside", type=Path, help="run of the policy that is filmed beside it")
    parser.add_argument("--gap", default="worn")
    parser.add_argument("--seed", type=int, default=0, help="which robot of the family")
    parser.add_argument("--film", default="film.gif")
    options = parser.parse_args()
    policy = Policy.load(options.run)
    policy.spec = replace(policy.spec, name=options.folder.resolve().name)
    export(policy, options.folder / "artifact")
    found = verify(options.folder / "artifact")
    if not found.ok:
        raise InputError(f"{options.folder / 'artifact'}: {found.sentence}")
    beside = None if options.beside is None else Policy.load(options.beside)
    shown = films(policy, beside, options.gap, options.seed, options.run / "adapt")
    write_atomically(options.folder / options.film, gif(side_by_side(shown)))
    for title, one in shown.items():
        end = "goes on" if one.ended is None else f"ends after {one.ended:.1f} s"
        print(f"{title}: return {one.returns[-1]:.0f}, {end}")


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        raise SystemExit(f"ship_policy: {error}") from None
