"""What every test may use, and what holds for the whole session: order, no silent skips in CI, nobody left running."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.beds import ports
from tests.beds.processes import RECORDED, Spawned, argv_of, end_state

CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")

# In CI the same examples in every run, so that a red build means a change; at a desk new ones each time.
settings.register_profile("ci", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("dev", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if CI else "dev"))


def pytest_configure() -> None:
    """Takes back what a shell's `&` or nohup made this process ignore: what it starts would ignore it as well."""
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Quick tests first, those of real processes after them; a soak runs only where it is asked for by name."""
    if "soak" not in config.option.markexpr:
        soaks = [item for item in items if item.get_closest_marker("soak")]
        if soaks:
            config.hook.pytest_deselected(items=soaks)
            items[:] = [item for item in items if not item.get_closest_marker("soak")]
    items.sort(key=lambda item: item.get_closest_marker("real") is not None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a test of a real component that skips itself has failed: there every component is there, or must be. One that
    failed on a host of its own tells what was seen there.
    """
    report = yield
    host = getattr(item, "funcargs", {}).get("site")
    if report.failed and call.when == "call" and host is not None:
        report.sections.append(("the host", host.evidence()))
    if CI and report.skipped and item.get_closest_marker("real") and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where real components must be tested: {reason}"
    return report


@pytest.fixture(scope="session", autouse=True)
def nobody_survives() -> Iterator[None]:
    """No process that a test recorded may outlive the session; a port reservation neither."""
    yield
    ports.release_ports()
    left = {process: argv_of(process.pid) for process in RECORDED if process.alive}
    assert not left, f"processes that tests started are still running: {left}"


@pytest.fixture
def spawned() -> Iterator[Spawned]:
    """Starts processes and ends them, and only them, with the test."""
    with Spawned() as owner:
        yield owner


@pytest.fixture
def state() -> Iterator[Path]:
    """An empty state directory (0700) with a short path: a Unix socket's address holds 107 bytes.

    With the test it is removed, after everything that still runs for it was ended.
    """
    path = Path(tempfile.mkdtemp(prefix="oc-", dir="/tmp"))
    try:
        yield path
    finally:
        try:
            end_state(path)
        finally:
            shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def free_port() -> Callable[[], int]:
    """A function that hands out loopback TCP ports, each only once (tests/beds/ports.py)."""
    return ports.free_port


@pytest.fixture
def clean_env(state: Path) -> Iterator[dict[str, str]]:
    """An environment in which nothing of this machine's own OpenClaw is seen.

    No OPENCLAW_*, no log levels, a home and a runtime directory of its own; OPENCLAW_STATE_DIR is the `state` directory.
    """
    with tempfile.TemporaryDirectory(prefix="oc-home-", dir="/tmp") as home:
        runtime = Path(home) / "run"
        runtime.mkdir(mode=0o700)
        kept = {name: value for name, value in os.environ.items() if not _steers(name)}
        yield {**kept, "HOME": home, "XDG_RUNTIME_DIR": str(runtime), "OPENCLAW_STATE_DIR": str(state)}


# Names that change what the program does, or (the last) make every start compile its own modules again.
_STEERING = frozenset(
    {
        "LOG_LEVEL",
        "DEBUG",
        "NO_COLOR",
        "FORCE_COLOR",
        "COLUMNS",
        "WARN_HOURS",
        "XDG_RUNTIME_DIR",
        "PYTHONDONTWRITEBYTECODE",
    }
)


def _steers(name: str) -> bool:
    return name in _STEERING or name.startswith(("OPENCLAW_", "NOTIFY_", "XDG_CONFIG", "XDG_STATE"))
