"""Models behind one set of names: real Wan classes, at 14B or at pocket size.

Importing this package mends torchvision first: transformers, diffusers and peft fail to import without it, and the
parent package is the one place that no import below it can pass by.
"""

from engine.environment import ensure_torchvision

ensure_torchvision()
