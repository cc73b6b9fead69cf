"""Yizhi (一致): one checkpoint, every runtime, proven identical."""

__version__ = "0.1.0"
