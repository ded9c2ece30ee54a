"""Which version of the distribution `lethe` this is: `pyproject.toml` states it, and nothing else does."""

from importlib.metadata import version

VERSION = version("lethe")
