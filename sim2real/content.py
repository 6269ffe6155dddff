"""Where the robots (`envs/`) and the recipes (`policies/`) are; nothing else here knows paths.

They are content, not code. A wheel carries them inside the package under `_content/`; in a
checkout, and so with an editable install, they lie beside the package; a person's own lie anywhere
and are given by path. A bare name means what is shipped, if it is, else a folder right here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from sim2real.types import InputError, nearest

_PACKAGE = Path(__file__).resolve().parent


def env_names() -> tuple[str, ...]:
    """The shipped robots, in alphabetical order."""
    return _names("envs", "env.yaml")


def policy_names() -> tuple[str, ...]:
    """The shipped recipes, in alphabetical order."""
    return _names("policies", "recipe.yaml")


def gap_names(env: str | os.PathLike[str]) -> tuple[str, ...]:
    """The gaps of a robot (a name, or a path to its folder), in alphabetical order."""
    return tuple(sorted(file.stem for file in (env_folder(env) / "gaps").glob("*.yaml")))


def env_folder(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of a robot: it holds `env.yaml`. InputError where there is none."""
    return _folder(name_or_path, "envs", "env.yaml", "robot")


def policy_folder(name_or_path: str | os.PathLike[str]) -> Path:
    """The folder of a recipe: it holds `recipe.yaml`. InputError where there is none."""
    return _folder(name_or_path, "policies", "recipe.yaml", "recipe")


def recipe_file(name_or_path: str | os.PathLike[str]) -> Path:
    """The YAML file of a recipe: of a shipped name, in a folder, or the file itself."""
    if _is_yaml(name_or_path):
        return _file(Path(name_or_path).expanduser(), "recipe")
    return policy_folder(name_or_path) / "recipe.yaml"


def gap_file(env: str | os.PathLike[str], name_or_path: str | os.PathLike[str]) -> Path:
    """The YAML file of a gap: the name of one of the robot's gaps, or the file itself."""
    if _is_yaml(name_or_path):
        return _file(Path(name_or_path).expanduser(), "gap")
    name, known = os.fspath(name_or_path), gap_names(env)
    if name in known:
        return env_folder(env) / "gaps" / f"{name}.yaml"
    raise InputError(
        f"gap '{name}': the robot '{env_folder(env).name}' has no such gap{nearest(name, known)}; "
        f"{_listing('its gaps are', known)}, or give the path of a .yaml file"
    )


def _root(kind: str) -> Path | None:
    """The shipped `envs` or `policies`, or None for an installation without them."""
    shipped = _PACKAGE / "_content" / kind
    if shipped.is_dir():
        return shipped
    # Beside an installed package lies site-packages, where `envs` may be somebody else's: only a
    # checkout has a pyproject.toml there.
    checkout = _PACKAGE.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / kind).is_dir():
        return checkout / kind
    return None


def _names(kind: str, marker: str) -> tuple[str, ...]:
    root = _root(kind)
    return (
        () if root is None else tuple(sorted(file.parent.name for file in root.glob(f"*/{marker}")))
    )


def _folder(name_or_path: str | os.PathLike[str], kind: str, marker: str, what: str) -> Path:
    given = os.fspath(name_or_path)
    known, root = _names(kind, marker), _root(kind)
    if given in known and root is not None:
        return root / given
    path = Path(given).expanduser()
    if given.strip() and (path / marker).is_file():
        return path.resolve()
    if given.strip() and path.is_dir():
        raise InputError(
            f"{what} '{given}': the folder has no {marker}{_with_marker(path, marker)}; "
            f"{_listing(f'the shipped {kind} are', known)}"
        )
    if path.is_file():
        raise InputError(
            f"{what} '{given}' is a file: give the folder that holds {marker}, or a shipped name; "
            f"{_listing(f'the shipped {kind} are', known)}"
        )
    raise InputError(
        f"{what} '{given}': no such name or folder{nearest(path.name, known)}; "
        f"{_listing(f'the shipped {kind} are', known)}"
    )


def _file(path: Path, what: str) -> Path:
    if path.is_file():
        return path.resolve()
    beside = [file.name for file in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    raise InputError(f"{what} '{path}': no such file{nearest(path.name, beside)}")


def _is_yaml(name_or_path: str | os.PathLike[str]) -> bool:
    return Path(name_or_path).suffix in {".yaml", ".yml"}


def _with_marker(path: Path, marker: str) -> str:
    inside = sorted(file.parent.name for file in path.glob(f"*/{marker}"))
    return f" (did you mean '{path / inside[0]}'?)" if inside else ""


def _listing(intro: str, names: Iterable[str]) -> str:
    listed = ", ".join(names)
    return f"{intro} {listed}" if listed else f"{intro} none"
