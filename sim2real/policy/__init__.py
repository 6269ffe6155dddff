"""A policy is a function of what a robot knows and of a state: `action, z' = policy(obs, z)`."""
