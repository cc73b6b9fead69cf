"""Artifact in, arrays out."""

from runtimes.base import Inputs, Outputs, Runtime, open_runtime

__all__ = ["Inputs", "Outputs", "Runtime", "open_runtime"]
