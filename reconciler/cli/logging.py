"""The supervisor's own log: structlog on stderr, for people on a terminal and as JSON lines elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from reconciler.cli.console import Terminal


def make_log(terminal: Terminal) -> Any:
    """A logger that writes each record with one `write` to stderr."""
    # structlog imports rich where it is installed, for tracebacks that this program never prints: 85 ms and 10 MB.
    hidden = {name: sys.modules.get(name) for name in ("rich",)}
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog
    finally:
        for name, module in hidden.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
    renderer: Any
    if terminal.stderr:
        renderer = structlog.dev.ConsoleRenderer(colors=terminal.colour, pad_event_to=18, sort_keys=False)
    else:
        renderer = structlog.processors.JSONRenderer(ensure_ascii=False)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    return structlog.get_logger()
