"""Weights on disk: what exists, what is there, and whether a file is what it says.

Knows nothing about tensors' values and needs no torch.
"""
