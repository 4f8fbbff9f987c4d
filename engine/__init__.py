"""The engine under Stable Video Infinity Studio: a film is a chain of takes, and generating is `make`."""

__version__ = "0.1.0"
