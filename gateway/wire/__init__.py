"""The gateway wire protocol and its data formats, for both sides; pure: no Trio, pydantic, structlog or files."""
