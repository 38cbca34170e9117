"""A pool of warm voice agents for LiveKit."""

__version__ = "0.1.0"
