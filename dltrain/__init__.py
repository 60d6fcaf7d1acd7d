"""Train deep networks from a configuration."""

__version__ = "0.1.0"
