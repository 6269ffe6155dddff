"""A policy is a function of what the robot knows and of its state: `action, z' = policy(obs, z)`."""
