"""What the gateway calls its version. Kept here so that a start does not read package metadata (55 ms)."""

VERSION = "0.1.0"
"""The same as in pyproject.toml; a test compares them."""
