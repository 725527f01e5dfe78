"""What grows with the document: a thousand and ten thousand resources, and a text of ten thousand lines."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from reconciler.document.load import load_text
from tests.bench.harness import Contender, Row, command

# The command line as it is, with the small kind `file` for tests and benchmarks in place of the real ones.
PROGRAM: Final = (
    "import sys; from reconciler.cli.main import main; from resources.testing import FileKind;"
    " sys.exit(main(kinds=lambda: (FileKind(),)))"
)
LINES: Final = 10_000


def files_document(directory: Path, files: int) -> str:
    """A document that declares so many small files below `directory`."""
    entries = (
        f'  f{number:05}:\n    path: {directory}/f{number:05}\n    content: hello {number}\n    mode: "0600"\n'
        for number in range(files)
    )
    return "version: 1\nx-files:\n" + "".join(entries)


def make_files(home: Path, files: int) -> Path:
    """A directory below `home` with the document and the files as it declares them; nothing is to be done there."""
    directory = home / f"files-{files}"
    directory.mkdir()
    (directory / "openclaw.yaml").write_text(files_document(directory, files), encoding="utf-8")
    for number in range(files):
        path = directory / f"f{number:05}"
        path.write_text(f"hello {number}", encoding="utf-8")
        path.chmod(0o600)
    return directory


def plan_of(python: Path, env: Mapping[str, str], directory: Path) -> Contender:
    """A cold plan of the document in `directory`, once applied, so that the journal knows every resource."""
    own = {**env, "OPENCLAW_STATE_DIR": str(directory / "state")}
    command([python, "-c", PROGRAM, "apply", "--yes"], own, directory)()
    return Contender(name=f"plan of {directory.name}", measure=command([python, "-c", PROGRAM, "plan"], own, directory))


def resource_rows(python: Path, env: Mapping[str, str], home: Path) -> list[Row]:
    """A thousand resources in absolute time, ten thousand as a multiple of it."""
    thousand, ten_thousand = (plan_of(python, env, make_files(home, files)) for files in (1_000, 10_000))
    return [
        Row(name="plan of 1,000 resources, cold", contender=thousand, floor=None, at_most=0.6),
        Row(name="plan of 10,000 to 1,000 resources", contender=ten_thousand, floor=thousand, at_most=11),
    ]


def long_text(lines: int) -> str:
    """A valid document of at least so many lines, of the sorts that people write: lists, blocks, quotes, comments."""
    parts = ["version: 1\nx-agents:\n"]
    count = 2
    while count < lines:
        number = len(parts)
        part = (
            f'  # agent number {number}\n  agent-{number:06}:\n    name: "Agent {number}"\n'
            f"    enabled: {'true' if number % 3 else 'false'}\n    model: provider/model-{number % 7}  # pinned\n"
            f"    tools: [read, write, exec]\n    env:\n      LOG_LEVEL: info\n      RETRIES: {number % 5}\n"
            f"    schedule: '*/5 * * * *'\n    limits: {{cpu: 0.5, memory: {128 + number % 512}}}\n"
            f"    text: |\n      line one of {number}\n      line two\n"
        )
        parts.append(part)
        count += part.count("\n")
    return "".join(parts)


def text_rows() -> list[Row]:
    """Our load of a long text, validation and positions included, beside the round trip of ruamel.yaml, which has them too."""
    text = long_text(LINES)

    def ours() -> float:
        began = time.perf_counter()
        loaded = load_text(text, {})
        place = loaded.locate(("x-agents", "agent-000700", "limits"))
        seconds = time.perf_counter() - began
        assert place is not None
        assert place.line > 1
        return seconds

    def round_trip() -> float:
        from ruamel.yaml import YAML

        yaml = YAML(typ="rt")
        began = time.perf_counter()
        yaml.load(text)
        return time.perf_counter() - began

    return [
        Row(
            name="load of 10,000 lines",
            contender=Contender(name="load of a text", measure=ours),
            floor=Contender(name="ruamel.yaml, round trip", measure=round_trip),
            at_most=0.2,
        )
    ]
