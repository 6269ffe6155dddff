"""Is what the package needs from the operating system here? One clear sentence where it is not.

    python3 tools/check_system.py --python                  before there is a .venv
    .venv/bin/python tools/check_system.py --rendering required     (or: optional)

With `--rendering` the only line on standard output is the value for MUJOCO_GL: `egl` or `osmesa`,
whichever draws a picture here, or `disabled`. `required` then exits with 1, `optional` warns.

The first form runs on Python 3.7 and newer, to be able to say that it is too old.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import os
import subprocess
import sys

OLDEST = (3, 11)
BACKENDS = {"egl": ("libEGL.so.1", "libGL.so.1"), "osmesa": ("libOSMesa.so.8",)}
PACKAGES = "`sudo apt-get install libegl1 libgl1` (or libosmesa6)"

# A red sphere in front of a black background: a context that draws nothing is not one that works.
PICTURE = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom size='1' rgba='1 0 0 1'/></worldbody></mujoco>"
)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    picture = renderer.render()
assert picture[..., 0].max() > 0, "the picture is black"
"""


def check_python() -> str:
    """What is wrong with this Python, or an empty string."""
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < OLDEST:
        return (
            f"Python 3.11 or newer is needed and {sys.executable} is {version}: install one (on "
            "Debian 12 and Ubuntu 24.04 `sudo apt-get install python3 python3-venv`) and name it: "
            "`make PYTHON=python3.11 ...`."
        )
    # Debian and Ubuntu leave ensurepip out of python3; the package of that version brings it.
    if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
        package = f"python3.{sys.version_info[1]}-venv"
        return (
            f"{sys.executable} cannot make virtual environments: `sudo apt-get install {package}`."
        )
    return ""


def working_backend() -> tuple[str, str]:
    """The value for MUJOCO_GL that draws here, and an empty string; or `disabled`, and why."""
    if importlib.util.find_spec("mujoco") is None:
        return "disabled", "mujoco is not installed in this environment: `make venv` does it."
    asked = os.environ.get("MUJOCO_GL", "")
    order = [name for name in (asked, *BACKENDS) if name in (*BACKENDS, "glfw")]
    reasons: list[str] = []
    for backend in dict.fromkeys(order):
        missing = [name for name in BACKENDS.get(backend, ()) if not _loads(name)]
        if missing:
            reasons.append(f"{backend} lacks {' and '.join(missing)}")
            continue
        reason = _draw(backend)
        if not reason:
            return backend, ""
        reasons.append(f"{backend} fails with: {reason}")
    why = "; ".join(reasons)
    return "disabled", f"Rendering does not work here ({why}): {PACKAGES} makes it work."


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _draw(backend: str) -> str:
    """The last line of what went wrong, or an empty string."""
    # In a process of its own: a driver that fails may take the process with it.
    try:
        done = subprocess.run(
            [sys.executable, "-c", PICTURE],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "no picture within 120 s"
    if done.returncode == 0:
        return ""
    # What follows is raised while a half-made context is thrown away, not the reason.
    errors = done.stderr.partition("Exception ignored in")[0].splitlines()
    errors = [line for line in errors if line and not line.startswith(" ")]
    return errors[-1] if errors else f"exit status {done.returncode}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--python", action="store_true", help="check the Python itself")
    parser.add_argument(
        "--rendering", choices=["required", "optional"], help="check EGL and OSMesa"
    )
    arguments = parser.parse_args()
    if arguments.python:
        problem = check_python()
        if problem:
            print(problem, file=sys.stderr)
            return 1
    if arguments.rendering:
        backend, problem = working_backend()
        print(backend)
        if problem and arguments.rendering == "required":
            print(problem, file=sys.stderr)
            return 1
        if problem:
            print("Warning: no pictures. " + problem, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
