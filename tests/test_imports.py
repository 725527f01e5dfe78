"""What a command may import: imports are most of what a command costs, so the lists are held here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.beds.processes import run

# Each costs 60 to 190 ms, and none is needed to read, compare and print (docs/explanation/dependencies.md). The models only say
# what is wrong with a document: these commands meet a valid one, which no cache knows.
NEVER = frozenset({"rich", "deepdiff", "httpx", "structlog", "prometheus_client", "pydantic", "pydantic_core"})
# Commands that observe nothing have nothing to wait for.
NO_LOOP = NEVER | {"trio", "trio_websocket", "watchfiles"}

# What the installed script does, without its own import of `re`.
START = "import sys; from reconciler.cli.entry import main; sys.exit(main())"

DOCUMENT = """\
version: 1
logging:
  level: info
"""

COMMANDS = [
    pytest.param(("plan",), NEVER, id="plan"),
    pytest.param(("status",), NEVER, id="status"),
    pytest.param(("drift",), NEVER, id="drift"),
    pytest.param(("why", "logs/gateway"), NEVER, id="why"),
    pytest.param(("validate",), NO_LOOP, id="validate"),
    pytest.param(("schema",), NO_LOOP, id="schema"),
    pytest.param(("history",), NO_LOOP, id="history"),
    pytest.param(("config", "explain", "logging.level"), NO_LOOP, id="config-explain"),
    pytest.param(("config", "get", "logging.level"), NO_LOOP, id="config-get"),
    pytest.param(("completion", "bash"), NO_LOOP, id="completion"),
    pytest.param(("--version",), NO_LOOP, id="version"),
    pytest.param(("--help",), NO_LOOP, id="help"),
]


def imported(stderr: str) -> set[str]:
    """The top-level modules in the log of `-X importtime`."""
    lines = (line.rpartition("|")[2].strip() for line in stderr.splitlines() if line.startswith("import time:"))
    return {name.partition(".")[0] for name in lines}


@pytest.mark.real
@pytest.mark.parametrize(("command", "forbidden"), COMMANDS)
def test_a_command_imports_nothing_that_it_does_not_need(
    command: tuple[str, ...], forbidden: frozenset[str], clean_env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "openclaw.yaml").write_text(DOCUMENT)
    done = run([sys.executable, "-X", "importtime", "-c", START, *command], env=clean_env, cwd=tmp_path)
    said = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("import time:"))
    modules, status = imported(done.stderr), done.returncode
    assert status in (0, 2), said
    assert len(done.stdout) > 0, "the command printed nothing: was it run at all?"
    assert "reconciler" in modules
    assert not modules & forbidden, f"{' '.join(command)} imports {sorted(modules & forbidden)}"


@pytest.mark.real
def test_a_broken_document_is_explained_by_the_models(clean_env: dict[str, str]) -> None:
    broken = Path(__file__).parent / "data/broken"
    done = run(
        [sys.executable, "-X", "importtime", "-c", START, "validate", "--file", "bind_misspelt.yaml"],
        env=clean_env,
        cwd=broken,
    )
    said = "".join(line for line in done.stderr.splitlines(keepends=True) if not line.startswith("import time:"))
    assert done.returncode == 78
    head, _, problems = (broken / "bind_misspelt.txt").read_text(encoding="utf-8").partition("\n")
    assert said == f"{problems}openclaw: {head}\n"
    assert {"pydantic", "pydantic_core"} <= imported(done.stderr)
