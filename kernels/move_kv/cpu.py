"""Slots copied to slots on a CPU."""

from . import reference

run = reference.run


def why_not(device: str) -> str | None:
    """Why this cannot serve a kind of device, or None."""
    return None if device == "cpu" else f"chosen for cpu, not {device}"
