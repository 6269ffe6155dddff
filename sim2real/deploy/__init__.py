"""The robot's side: run, verify and log an exported policy. Needs numpy and onnxruntime only.

contract <- golden <- artifact <- {verify, adapt} <- controller; robots, logs and safety stand on
contract. Nothing here imports torch, mujoco or gymnasium, directly or through another module.
"""
