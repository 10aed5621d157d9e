"""Distributed training for person re-identification without labels (and with few)."""

__version__ = "0.1.0"
