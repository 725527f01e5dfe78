"""The program's version. `importlib.metadata` costs 55 ms: it is asked only where somebody wants to see the version."""

from __future__ import annotations


def version() -> str:
    """The version of the installed distribution; `unknown` where the program runs without being installed."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        return installed("openclaw-reconciler")
    except PackageNotFoundError:
        return "unknown"
