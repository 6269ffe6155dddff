"""A robot behind UDP, normally on loopback: stamps are compared with this machine's clock."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

import numpy as np

from sim2real.deploy.robots import protocol
from sim2real.deploy.robots.base import RobotDescription, Sample
from sim2real.deploy.robots.protocol import Kind, Message
from sim2real.types import Array, InputError

RETRY = 0.1
"""[s] without an answer until a message that has one is sent again."""


class UdpRobot:
    """The client of `protocol`, in lockstep or in real time as the robot says.

    Duplicates and reordered observations are dropped by seq; `dropped`, `lost` and `retries` count.
    """

    def __init__(self, host: str, port: int, timeout: float = 2.0) -> None:
        self.address = f"{host}:{port}"
        self.dropped = 0
        self.lost = 0
        self.retries = 0
        self._seq = 0  # of the last RESET or COMMAND
        self._reset_seq = 0
        self._seen = 0  # seq of the newest observation taken
        self._pending = b""  # what is sent again when its answer does not come
        self._reset_timeout = max(timeout, 1.0)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.connect((host, port))
        except OSError as error:
            self._socket.close()
            raise InputError(f"no robot can be at {self.address}: {error.strerror}") from None
        try:
            self._description = self._hello(time.monotonic() + timeout)
        except BaseException:
            self._socket.close()
            raise
        sizes = [term.size for term in self._description.terms]
        ends = np.cumsum([1, *sizes])  # the reward stands first
        self._slices = {
            term.name: slice(start, start + term.size)
            for term, start in zip(self._description.terms, ends, strict=False)
        }
        self._length = int(ends[-1])

    def describe(self) -> RobotDescription:
        return self._description

    def reset(self, seed: int | None = None) -> Sample:
        self._seq += 1
        self._reset_seq = self._seq
        self._ask(protocol.reset(self._seq, seed))
        return self._answer(time.monotonic() + self._reset_timeout, self._reset_timeout)

    def send(self, command: Array, seq: int) -> None:
        self._seq += 1
        self._ask(protocol.command(self._seq, seq, time.monotonic(), command))

    def receive(self, timeout: float) -> Sample:
        deadline = time.monotonic() + timeout
        if not self._description.realtime:
            return self._answer(deadline, timeout)
        newest = self._observation(deadline)
        if newest is None:
            raise TimeoutError(f"nothing new from {self.address} within {timeout:g} s")
        reward = 0.0  # of all the periods since the sample before, also those skipped here
        sample = self._sample(newest)
        while (later := self._observation(0.0)) is not None:
            reward += sample.reward or 0.0
            sample = self._sample(later)
        return sample if sample.reward is None else sample._replace(reward=reward + sample.reward)

    def damp(self) -> None:
        for _ in range(3):  # not answered: sent more than once, against loss
            self._send(Message(Kind.DAMP).encode())

    def close(self) -> None:
        self._send(Message(Kind.BYE).encode())
        self._socket.close()

    def _hello(self, deadline: float) -> RobotDescription:
        self._pending = Message(Kind.HELLO).encode()
        while (now := time.monotonic()) < deadline:
            self._send(self._pending)
            message = self._next(min(now + RETRY, deadline))
            while message is not None:
                if message.kind is Kind.DESCRIBE:
                    return message.description()
                message = self._next(0.0)
        raise InputError(f"no robot answers at {self.address}; start one with `sim2real serve`")

    def _ask(self, message: Message) -> None:
        self._pending = message.encode()
        self._send(self._pending)

    def _answer(self, deadline: float, timeout: float) -> Sample:
        """The observation that answers the message sent last, which is repeated until it comes."""
        while (now := time.monotonic()) < deadline:
            message = self._observation(min(now + RETRY, deadline))
            if message is None:
                self.retries += 1
                self._send(self._pending)
            elif message.ack == self._seq:
                return self._sample(message)
            else:
                self.dropped += 1
        raise TimeoutError(f"the robot at {self.address} has not answered for {timeout:g} s")

    def _observation(self, deadline: float) -> Message | None:
        """The next observation that is newer than all before and not older than the last reset."""
        while (message := self._next(deadline)) is not None:
            if message.kind is not Kind.OBSERVATION:
                continue
            if message.seq <= self._seen or message.ack < self._reset_seq:
                self.dropped += 1
                continue
            if self._seen and self._description.realtime:
                self.lost += message.seq - self._seen - 1
            self._seen = message.seq
            return message
        return None

    def _sample(self, message: Message) -> Sample:
        values = message.values()
        if values.size != self._length:
            raise InputError(
                f"the robot at {self.address} sent an observation of {values.size - 1} numbers; "
                f"its description says {self._length - 1}"
            )
        return Sample(
            message.seq,
            message.stamp,
            {name: values[at].copy() for name, at in self._slices.items()},
            float(values[0]) if self._description.reward else None,
            bool(message.flags & protocol.Flag.TERMINATED),
            bool(message.flags & protocol.Flag.TRUNCATED),
        )

    def _next(self, deadline: float) -> Message | None:
        """The next message until `deadline` (0: only what is there now), or None."""
        while True:
            left = deadline - time.monotonic()
            self._socket.settimeout(max(left, 0.0))
            try:
                message = protocol.decode(self._socket.recv(protocol.MAX_DATAGRAM))
            except (TimeoutError, BlockingIOError):
                return None
            except ConnectionRefusedError:  # nobody is bound to the port (yet, or any more)
                if left <= 0:
                    return None
                time.sleep(min(left, 0.02))
                continue
            if message is None:
                self.dropped += 1
            elif message.kind is Kind.ERROR:
                raise InputError(f"the robot at {self.address} refuses: {message.sentence()}")
            else:
                return message

    def _send(self, data: bytes) -> None:
        # The loss of a datagram is what the receiving side deals with.
        with suppress(ConnectionRefusedError, BlockingIOError):
            self._socket.send(data)
