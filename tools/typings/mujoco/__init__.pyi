# For pyright only: mujoco is compiled and comes without types, so that every name in it would be
# reported as missing. Here every name exists, of unknown type. Remove this when mujoco has stubs.
from typing import Any

def __getattr__(name: str) -> Any: ...
