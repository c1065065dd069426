"""What a figure was measured on."""

from __future__ import annotations

import os
import platform

import jax


def describe() -> str:
    """The device that the programs run on, and jax's version."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return f"{os.cpu_count()} cores, {_processor()}, CPU, jax {jax.__version__}"
    return f"{device.device_kind} ({os.cpu_count()} host cores), jax {jax.__version__}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
