"""The tasks by name. All but `velocity`, `joint_trajectory` and `reach_pose` are Gymnasium's `-v5`
environments of that name, bit for bit."""

from sim2real.simulation.tasks.ant import Ant
from sim2real.simulation.tasks.arm import JointTrajectory, ReachPose
from sim2real.simulation.tasks.base import Task
from sim2real.simulation.tasks.halfcheetah import HalfCheetah
from sim2real.simulation.tasks.hopper import Hopper
from sim2real.simulation.tasks.humanoid import Humanoid
from sim2real.simulation.tasks.inverted_double_pendulum import InvertedDoublePendulum
from sim2real.simulation.tasks.inverted_pendulum import InvertedPendulum
from sim2real.simulation.tasks.pusher import Pusher
from sim2real.simulation.tasks.reacher import Reacher
from sim2real.simulation.tasks.velocity import Velocity
from sim2real.simulation.tasks.walker2d import Walker2d

__all__ = ["TASKS", "Task"]

TASKS: dict[str, type[Task]] = {
    "ant": Ant,
    "halfcheetah": HalfCheetah,
    "hopper": Hopper,
    "humanoid": Humanoid,
    "inverted_double_pendulum": InvertedDoublePendulum,
    "inverted_pendulum": InvertedPendulum,
    "joint_trajectory": JointTrajectory,
    "pusher": Pusher,
    "reach_pose": ReachPose,
    "reacher": Reacher,
    "velocity": Velocity,
    "walker2d": Walker2d,
}
