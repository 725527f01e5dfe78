"""The keeper lives for months and must be small: it loads the standard library and itself, all of it at its start."""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path

import pytest

from resources.service import keeper
from resources.service.keeper import program
from tests.beds.processes import run

FOLDER = Path(keeper.__file__).parent


@pytest.mark.req("SVC-7")
def test_it_loads_the_standard_library_and_itself_only() -> None:
    code = (
        "import sys; before = set(sys.modules); import resources.service.keeper.main; print(*set(sys.modules) - before)"
    )
    done = run([sys.executable, "-P", "-c", code])
    assert done.returncode == 0, done.stderr
    loaded = {name for name in done.stdout.split() if name.partition(".")[0] not in sys.stdlib_module_names}
    own = {"resources", "resources.service"} | {
        f"resources.service.{name}" for name in ("listeners", "proc", "shortage")
    }
    assert {name for name in loaded - own if not name.startswith("resources.service.keeper")} == set()
    assert not {"argparse", "asyncio", "ctypes", "logging", "subprocess", "threading"} & set(done.stdout.split())


@pytest.mark.req("SVC-7")
def test_its_digest_is_over_all_of_its_own_that_it_loads() -> None:
    code = (
        "import sys; sys.argv = ['keeper', '--check']\n"
        "import runpy\n"
        "try: runpy.run_module('resources.service.keeper')\n"
        "except SystemExit: pass\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('resources.')), sep='\\n')"
    )
    done = run([sys.executable, "-P", "-c", code])
    assert done.returncode == 0, done.stderr
    # The two that stand in packages above hold a docstring.
    loaded = {Path(line) for line in done.stdout.splitlines()} - {FOLDER.parent / "__init__.py"}
    assert len(loaded) > 10
    assert loaded <= set(map(Path, program.files()))


@pytest.mark.req("SVC-7")
def test_its_digest_changes_with_any_byte_and_with_no_place(tmp_path: Path) -> None:
    ask = "from resources.service.keeper import program; print(program.digest())"

    def digest(path: Path) -> str:
        done = run([sys.executable, "-P", "-c", ask], env={"PYTHONPATH": str(path)})
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    copy = tmp_path / "resources"
    shutil.copytree(FOLDER.parents[1], copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert digest(tmp_path) == program.digest()
    with (copy / "service" / "proc.py").open("a") as file:
        file.write("\n")
    assert digest(tmp_path) != program.digest()


@pytest.mark.req("SVC-7")
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_it_imports_nothing_later(path: Path) -> None:
    """An upgrade replaces files under a running keeper: what it would load then is of another version."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    late = [node for one in functions for node in ast.walk(one) if isinstance(node, (ast.Import, ast.ImportFrom))]
    assert late == []
