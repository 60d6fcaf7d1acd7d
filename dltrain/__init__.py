"""Train deep networks from a configuration."""

__version__ = "0.2.0"
