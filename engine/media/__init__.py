"""Pictures and video on disk: import, fit, encode, join, probe. Knows nothing about projects, models or screens."""
