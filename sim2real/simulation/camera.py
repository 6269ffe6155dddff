"""Pictures of a robot, drawn off screen by a process of its own.

MuJoCo settles on one way to draw when it is first imported, fails to import where that way is
not installed, and a broken driver may take its whole process with it. So another process draws:
which of EGL and OSMesa works here is decided in `Camera` and nowhere else in the package, the
process that simulates needs neither, and both are tried for real.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
from contextlib import suppress

import mujoco
import numpy as np

from sim2real.types import Array

PACKAGES = "`sudo apt-get install libegl1 libgl1` (or libosmesa6)"
BACKENDS = ("egl", "osmesa")
OFF = {"disable", "disabled", "off", "false", "0"}
"""Values of MUJOCO_GL that say: do not draw."""
PATIENCE = 60.0
"""Longest wait for a picture [s]."""


class RenderingMissing(RuntimeError):
    """No picture can be drawn here; the message says why, and what brings the pictures."""


class Camera:
    """Looks at one model: through its first camera that follows the robot (cameras that the robot
    carries look elsewhere); else from above, following its first body if that can move.

    Args:
        model: what to draw; later changes to it are not seen.
        width, height: of the pictures; at most the model's off-screen buffer, 640 x 480 unless
            the model says otherwise.

    Raises:
        RenderingMissing: neither EGL nor OSMesa draws here, or MUJOCO_GL forbids it.
    """

    def __init__(self, model: mujoco.MjModel, width: int = 320, height: int = 240) -> None:
        asked = os.environ.get("MUJOCO_GL", "").lower().strip()
        if asked in OFF:
            raise RenderingMissing(f"MUJOCO_GL is {asked}; set it to egl, with {PACKAGES}")
        self._nq, self._shape = model.nq, (height, width, 3)
        content = np.zeros(mujoco.mj_sizeModel(model), np.uint8)
        mujoco.mj_saveModel(model, None, content)
        said: list[str] = []
        for backend in dict.fromkeys(b for b in (asked, *BACKENDS) if b in (*BACKENDS, "glfw")):
            self._start(backend, content)
            try:
                self.draw(model.qpos0)  # a process that cannot draw says so at the first picture
                return
            except RenderingMissing as error:
                said.append(f"{backend}: {error}")
        why = "; ".join(said)
        raise RenderingMissing(f"nothing draws pictures here ({why}); {PACKAGES} brings them")

    def _start(self, backend: str, content: Array) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  lives as long as the process
        height, width, _ = self._shape
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(width), str(height), str(len(content))],
            env={**os.environ, "MUJOCO_GL": backend},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        self._send(content.tobytes())

    def draw(self, qpos: Array) -> Array:
        """(height, width, 3) uint8, of the model at qpos (nq,).

        Raises:
            RenderingMissing: the process that draws has ended.
        """
        qpos = np.ascontiguousarray(qpos, float)
        if qpos.shape != (self._nq,):
            raise ValueError(f"qpos has shape {qpos.shape}; this model takes ({self._nq},)")
        self._send(qpos.tobytes())
        return np.frombuffer(self._receive(int(np.prod(self._shape))), np.uint8).reshape(
            self._shape
        )

    def _send(self, content: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and the next picture says why
            self._process.stdin.write(content)
            self._process.stdin.flush()

    def _receive(self, size: int) -> bytes:
        out = self._process.stdout
        assert out is not None
        content = b""
        while len(content) < size:
            ready, _, _ = select.select([out], [], [], PATIENCE)
            part = os.read(out.fileno(), size - len(content)) if ready else b""
            if not part:
                why = self._why() if ready else f"no picture within {PATIENCE:.0f} s"
                self.close()
                raise RenderingMissing(why)
            content += part
        return content

    def _why(self) -> str:
        """The last words of a process that is ending."""
        status = self._process.wait()
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        # what is raised while a half-made context is thrown away is not the reason
        lines = text.partition("Exception ignored in")[0].splitlines()
        words = [line for line in lines if line and not line.startswith(" ")]
        return words[-1] if words else f"exit status {status}"

    def close(self) -> None:
        """Ends the process; doing it again is harmless."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            assert stream is not None
            with suppress(BrokenPipeError):  # for the bytes that the process did not live to read
                stream.close()

    def __enter__(self) -> Camera:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _main() -> None:
    """The process that draws: a model, then any number of qpos on standard input; a picture each
    on standard output."""
    width, height, size = map(int, sys.argv[1:])
    source, out = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # drivers talk on standard output, where the pictures go
    model = mujoco.MjModel.from_binary_path("model.mjb", {"model.mjb": source.read(size)})
    # Measured in software (Mesa), hopper: 80 ms a picture as MuJoCo would, 20 ms with these.
    model.vis.quality.shadowsize = min(model.vis.quality.shadowsize, 1024)
    model.vis.quality.offsamples = 0
    data = mujoco.MjData(model)
    camera = _view(model)
    with mujoco.Renderer(model, height, width) as renderer:
        while len(qpos := source.read(8 * model.nq)) == 8 * model.nq:
            data.qpos[:] = np.frombuffer(qpos)
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera)
            out.write(renderer.render().tobytes())
            out.flush()


def _view(model: mujoco.MjModel) -> mujoco.MjvCamera:
    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(model, camera)
    follows = (
        int(mujoco.mjtCamLight.mjCAMLIGHT_TRACK),
        int(mujoco.mjtCamLight.mjCAMLIGHT_TRACKCOM),
    )
    following = np.flatnonzero(np.isin(model.cam_mode, follows))
    if len(following):
        camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, int(following[0])
    elif model.nbody > 1 and model.body_dofnum[1]:
        camera.type, camera.trackbodyid = mujoco.mjtCamera.mjCAMERA_TRACKING, 1
    return camera


if __name__ == "__main__":
    _main()
