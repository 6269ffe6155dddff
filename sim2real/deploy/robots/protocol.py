"""The wire: one datagram is one message, a header and a payload, little-endian.

    header   magic "S2RL" · version u8 · kind u8 · flags u16 · seq u64 · ack u64 · stamp f64

32 bytes.

`seq` counts the messages of its sender (client: RESET and COMMAND; server: OBSERVATION), from 1 on,
and never repeats. `ack` is the newest seq of the other side that the sender has acted on (0: none).

    kind           sender   payload
    HELLO          client   none
    DESCRIBE       server   RobotDescription as JSON
    RESET          client   seed i64; -1: none given
    COMMAND        client   A f64, in the order of DESCRIBE's actuators
    OBSERVATION    server   reward f64, then the terms of DESCRIBE one after another, f64;
                            flags TERMINATED, TRUNCATED
    DAMP, BYE      client   none
    ERROR          server   a sentence, UTF-8: what was wrong with a message,
                            and what would have been right

What a server must do:

* HELLO: take the sender as the one peer, forget the seqs of earlier peers, answer DESCRIBE (again
  for a repeated HELLO). While another peer has been heard within the last second and has not said
  BYE, answer ERROR instead: a robot has one commander. Messages of anyone but the peer are ignored.
* RESET or COMMAND whose seq is not above the last one acted on: do not act. In lockstep, if it
  equals the last one, send the same OBSERVATION again, byte for byte (its answer was lost).
  Otherwise ignore it.
* RESET (new): begin an episode, with the seed where one is given; ends a damping.
* COMMAND (new): a wrong length is answered by ERROR. In lockstep one control period passes under
  this command and an OBSERVATION is the answer. In real time it is what the actuators get from now
  on.
* OBSERVATION: `ack` is the seq of the RESET or COMMAND acted on last; in lockstep that is what it
  answers. `reward` is that of the control period which ends with it (0 at a RESET, and where there
  is no such channel). `stamp` is when it was measured: time.monotonic() in real time, the robot's
  own time in lockstep.
* In real time an OBSERVATION goes to the peer every control period, each with a new seq. Between
  RESET and the first COMMAND the episode waits: the first observation is sent again, with fresh
  stamps. After half a second without a COMMAND the server damps by itself.
* After TERMINATED or TRUNCATED nothing moves until RESET: COMMANDs are answered (in real time:
  periods are filled) with the last observation, its flags still set, reward 0.
* DAMP: no force (zero command within the limits) until RESET: time goes on under it, commands are
  ignored, and in lockstep each is answered after its period. Not answered; sent more than once.
* BYE: damp, forget the peer.
* Anything that is not a message is ignored; another version is answered by ERROR.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from enum import IntEnum, IntFlag
from typing import NamedTuple

import numpy as np

from sim2real.deploy.robots.base import RobotDescription
from sim2real.schema import read, to_dict
from sim2real.types import Array, InputError

MAGIC = b"S2RL"
VERSION = 1
MAX_DATAGRAM = 65507
_HEADER = struct.Struct("<4sBBHQQd")
_SEED = struct.Struct("<q")


class Kind(IntEnum):
    HELLO = 1
    DESCRIBE = 2
    RESET = 3
    COMMAND = 4
    OBSERVATION = 5
    DAMP = 6
    BYE = 7
    ERROR = 8


class Flag(IntFlag):
    NONE = 0
    TERMINATED = 1
    TRUNCATED = 2


class Message(NamedTuple):
    kind: Kind
    seq: int = 0
    ack: int = 0
    stamp: float = 0.0
    flags: Flag = Flag.NONE
    payload: bytes = b""

    def encode(self) -> bytes:
        data = (
            _HEADER.pack(MAGIC, VERSION, self.kind, self.flags, self.seq, self.ack, self.stamp)
            + self.payload
        )
        if len(data) > MAX_DATAGRAM:
            raise InputError(
                f"a {self.kind.name} of {len(data)} bytes does not fit a datagram ({MAX_DATAGRAM})"
            )
        return data

    def values(self) -> Array:
        """The payload as float64 numbers (COMMAND; OBSERVATION has the reward first)."""
        if len(self.payload) % 8:
            raise InputError(
                f"a {self.kind.name} of {len(self.payload)} bytes is not a list of float64"
            )
        return np.frombuffer(self.payload, "<f8")

    def seed(self) -> int | None:
        """The seed of a RESET."""
        if len(self.payload) != _SEED.size:
            raise InputError(
                f"a RESET carries a seed of {_SEED.size} bytes, not {len(self.payload)}"
            )
        seed = _SEED.unpack(self.payload)[0]
        return None if seed < 0 else seed

    def description(self) -> RobotDescription:
        """The content of a DESCRIBE; InputError where it is not one."""
        try:
            data = json.loads(self.payload)
        except ValueError:
            data = None
        if not isinstance(data, dict):
            raise InputError("the robot's description is not a JSON object")
        return read(RobotDescription, data, "the robot's description")

    def sentence(self) -> str:
        """The text of an ERROR."""
        return self.payload.decode(errors="replace")


def decode(data: bytes) -> Message | None:
    """The message in a datagram; None where it is not one of ours.

    Raises:
        InputError: it is one of ours, of another version or kind.
    """
    if len(data) < _HEADER.size or data[:4] != MAGIC:
        return None
    _, version, kind, flags, seq, ack, stamp = _HEADER.unpack_from(data)
    if version != VERSION:
        raise InputError(
            f"the other side speaks version {version} of the protocol; this is version {VERSION}"
        )
    if kind not in Kind.__members__.values():
        raise InputError(f"the other side sent a message of the unknown kind {kind}")
    return Message(Kind(kind), seq, ack, stamp, Flag(flags & 3), data[_HEADER.size :])


def describe(description: RobotDescription) -> Message:
    return Message(Kind.DESCRIBE, payload=json.dumps(to_dict(description)).encode())


def reset(seq: int, seed: int | None) -> Message:
    if seed is not None and not 0 <= seed < 2**63:
        raise InputError(f"a seed must lie in 0 to 2^63 - 1, but is {seed}")
    return Message(Kind.RESET, seq, payload=_SEED.pack(-1 if seed is None else seed))


def command(seq: int, ack: int, stamp: float, values: Array) -> Message:
    return Message(Kind.COMMAND, seq, ack, stamp, payload=np.asarray(values, "<f8").tobytes())


def observation(
    description: RobotDescription,
    seq: int,
    ack: int,
    stamp: float,
    obs: Mapping[str, Array],
    reward: float = 0.0,
    terminated: bool = False,
    truncated: bool = False,
) -> Message:
    """The server's side of `Message.values`; `obs` has all of the description's terms."""
    flags = (Flag.TERMINATED if terminated else Flag.NONE) | (
        Flag.TRUNCATED if truncated else Flag.NONE
    )
    parts = [
        np.asarray([reward], "<f8"),
        *(np.asarray(obs[t.name], "<f8").ravel() for t in description.terms),
    ]
    values = np.concatenate(parts)
    if values.size != 1 + sum(t.size for t in description.terms):
        raise InputError("the observation does not have the size that the description says")
    return Message(Kind.OBSERVATION, seq, ack, stamp, flags, values.tobytes())


def error(sentence: str) -> Message:
    return Message(Kind.ERROR, payload=sentence.encode())
