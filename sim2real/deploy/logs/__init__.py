"""Logs of what happened on a robot; one module per file format."""
