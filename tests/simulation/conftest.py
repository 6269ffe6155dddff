"""A robot of one's own: a cart on a frictionless rail, whose motion is plain arithmetic."""

import pytest

from sim2real.simulation.robot import Robot

MODEL = """
<mujoco model="cart">
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <body name="cart">
      <joint name="slide" type="slide" axis="1 0 0"/>
      <geom name="box" type="box" size="0.1 0.1 0.1" mass="2"/>
    </body>
  </worldbody>
  <actuator>
    <motor name="push" joint="slide" gear="3" ctrlrange="-1 1"/>
  </actuator>
</mujoco>
"""

TASK = """
import numpy as np

from sim2real.simulation.tasks.base import Task


class Cart(Task):
    episode_steps = 30

    def initial_state(self, rng):
        return rng.uniform(-0.1, 0.1, self.model.nq), np.zeros(self.model.nv)

    def observe(self, data):
        return np.concatenate((data["qpos"], data["qvel"]), axis=1)

    def reward(self, data, before, action, dt):
        distance = np.abs(data["qpos"][:, 0])
        return -distance, {"distance": distance}

    def terminated(self, data):
        return np.abs(data["qpos"][:, 0]) > 0.2
"""

ENV = """
description: A cart on a rail.
model: cart.xml
frame_skip: 2
task: task.py
command_unit: 3 N
terms:
  position: {source: joint_position, joints: [slide], unit: m, sensor: encoder}
  velocity: {source: joint_velocity, joints: [slide], unit: m/s, sensor: encoder}
  last_action: {source: last_action, unit: 3 N, sensor: command}
observations:
  measured: [position, velocity, last_action]
parameters:
  - {name: mass, field: body_mass, select: cart, low: 0.5, high: 2}
  - {name: slope, field: gravity, axis: 0, op: add, low: -1, high: 1, unit: m/s²}
  - {name: latency, field: actuator_delay, op: set, low: 0, high: 50, unit: ms}
"""


@pytest.fixture
def cart_folder(tmp_path):
    """The folder of the cart, as a person would write it; 2 kg, 3 N, periods of two 10 ms steps."""
    folder = tmp_path / "cart"
    (folder / "gaps").mkdir(parents=True)
    (folder / "cart.xml").write_text(MODEL)
    (folder / "task.py").write_text(TASK)
    (folder / "env.yaml").write_text(ENV)
    (folder / "gaps" / "weak.yaml").write_text(
        "description: Half the motor.\nactuators: {strength: 0.5}\n"
    )
    return folder


@pytest.fixture
def cart(cart_folder):
    return Robot.load(cart_folder)
