"""Transfer learning from cached features."""

__version__ = "0.1.0"
