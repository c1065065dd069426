"""What a figure was measured on."""

from __future__ import annotations

import os
import platform
import time

import jax


def describe() -> str:
    """The device that the programs run on, jax's version, and the date."""
    device, end = jax.devices()[0], f"jax {jax.__version__}, {time.strftime('%Y-%m-%d')}"
    if device.platform == "cpu":
        return f"{os.cpu_count()} cores, {_processor()}, CPU, {end}"
    return f"{device.device_kind} ({os.cpu_count()} host cores), {end}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
