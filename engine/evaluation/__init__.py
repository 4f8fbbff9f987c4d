"""Measurements: how good the pictures are and what they cost."""

from engine.environment import ensure_torchvision

ensure_torchvision()
