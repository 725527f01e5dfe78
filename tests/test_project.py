"""The project as a whole: its packaging, its tree, and that its pages and its code say the same."""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.beds.needs import needs_programs
from tests.beds.processes import run

ROOT = Path(__file__).parents[1]
PACKAGES = ("reconciler", "resources", "gateway")
REFERENCE = ROOT / "docs/reference"


def tree() -> list[Path]:
    """Every file of the project: what git tracks, and what is new and not ignored."""
    needs_programs("git")
    listed = run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT)
    assert listed.returncode == 0, listed.stderr
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def calls_of(name: str) -> Iterator[tuple[ast.Call, str]]:
    """Every call of something named `name` in our packages, with the file it stands in."""
    for path in (path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == name:
                yield node, path.relative_to(ROOT).as_posix()


# Packaging


def test_no_other_installed_distribution_owns_our_import_names() -> None:
    owners = importlib.metadata.packages_distributions()
    for name in PACKAGES:
        others = {re.sub(r"[-_.]+", "-", owner).lower() for owner in owners.get(name, [])} - {"openclaw-reconciler"}
        assert not others, f"{name} also belongs to {others}"


@pytest.mark.real
def test_the_wheel_holds_the_three_packages_and_nothing_else(tmp_path: Path) -> None:
    build: list[str | Path] = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT]
    built = run(build, cwd=tmp_path, timeout=300)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    script = f"{wheel.name.rpartition('-py3')[0]}.data/scripts/openclaw"
    assert script in names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name and name != script} == set(PACKAGES)
    checked = run([Path(sys.executable).parent / "check-wheel-contents", "--toplevel", ",".join(PACKAGES), wheel])
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_it_cannot_be_uploaded_by_accident() -> None:
    assert "Private :: Do Not Upload" in importlib.metadata.metadata("openclaw-reconciler").get_all("Classifier", [])


# The tree

# Put together here, so that this file does not hold what it looks for.
FORBIDDEN = {
    "a path of one machine": re.compile("/" + "work/|" + r"(\.\./|\b)" + "shared" + "/"),
    "a package registry's host": re.compile(
        "py" + r"pi\.org|python" + r"hosted\.org|registry\." + "npm" + r"js\.org|deb\." + r"debian\.org"
    ),
    "a number of an issue": re.compile(r"\bissue" + r"s? (#|\d|show\b)", re.IGNORECASE),
    "an instruction to install it from a registry": re.compile("pip install " + "openclaw"),
}


def test_the_tree_speaks_only_of_itself() -> None:
    found = []
    for path in tree():
        text = path.read_bytes().decode(errors="replace")
        for what, pattern in FORBIDDEN.items():
            found += [f"{path.relative_to(ROOT)}: {what}: {match[0]!r}" for match in pattern.finditer(text)]
    assert not found


def test_every_folder_of_tests_is_a_package() -> None:
    folders = {path.parent for path in (ROOT / "tests").rglob("*.py")}
    folders |= {parent for folder in folders for parent in folder.parents if parent.is_relative_to(ROOT / "tests")}
    assert not [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()]


# The pages


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_readme_names_the_two_commands_and_no_target_that_is_not_there() -> None:
    text = (ROOT / "README.md").read_text()
    assert {"make run", "make test"} <= set(re.findall(r"make [a-z]+", text))
    for page in pages():
        named = set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.MULTILINE))
        assert named <= targets(), f"{page.relative_to(ROOT)} names {named - targets()}"


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text()):
        assert (page.parent / link).exists(), f"{page.relative_to(ROOT)} links to {link}"


def test_the_places_that_the_pages_for_a_start_name_are_those_of_the_first_document() -> None:
    from reconciler.document.load import load_text
    from reconciler.document.template import init_text

    text = init_text(".openclaw-token")
    first = load_text(text, {})
    places = {}
    for name in ("gateway.port", "gateway.auth.token", "logging.level"):
        for value in (False, True):
            position = first.locate(tuple(name.split(".")), value=value)
            assert position is not None
            places[position.line, position.column] = name
    seen = 0
    for page in [ROOT / "README.md", *(ROOT / "docs/tutorial").glob("*.md"), *(ROOT / "docs/how-to").glob("*.md")]:
        for line in page.read_text().splitlines():
            for match in re.finditer(r"openclaw\.yaml:(\d+):(\d+)(?:: (?:config\.)?([a-z]+\.[a-z]+) )?", line):
                named = places.get((int(match[1]), int(match[2])))
                # A section that is not managed is shown of a longer document.
                assert named is not None or "not managed" in line, f"{page.name}: {line}"
                assert match[3] in {None, named}, f"{page.name}: {line}"
                seen += 1
            if quoted := re.match(r" *(\d+) \| ( *[a-z]+: )", line):
                assert text.splitlines()[int(quoted[1]) - 1].startswith(quoted[2]), f"{page.name}: {line}"
    assert seen > 10


def test_every_page_can_be_reached_from_the_index() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md", ROOT / "docs/README.md"]
    while waiting:
        page = waiting.pop().resolve()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        waiting += [page.parent / link for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text())]
    assert not {page.resolve() for page in pages()} - seen


def test_the_changelog_keeps_its_form() -> None:
    text = (ROOT / "docs/changelog.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= {
        "Added",
        "Changed",
        "Deprecated",
        "Removed",
        "Fixed",
        "Security",
    }


def test_every_exit_code_is_in_the_reference() -> None:
    from reconciler import errors

    text = (REFERENCE / "exit-codes.md").read_text()
    codes = {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, errors.OpenClawError)
    }
    assert {f"| {code} |" for code in codes} <= set(re.findall(r"^\| \d+ \|", text, re.MULTILINE))


def test_every_condition_and_reason_is_in_the_reference() -> None:
    text = (REFERENCE / "conditions.md").read_text()
    missing = []
    for call, where in [*calls_of("Condition"), *calls_of("_condition"), *calls_of("Health")]:
        values = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg in ("type", "reason"))]
        constants = [node for value in values for node in ast.walk(value) if isinstance(node, ast.Constant)]
        words = {str(node.value) for node in constants if re.fullmatch(r"[A-Z][A-Za-z]+", str(node.value))}
        missing += [f"{word} of {where}" for word in sorted(words) if f"`{word}`" not in text]
    assert not missing


def test_the_reference_has_no_condition_and_no_reason_that_nothing_sets() -> None:
    text = (REFERENCE / "conditions.md").read_text()
    code = "".join(
        path.read_text(encoding="utf-8")
        for package in ("reconciler", "resources")
        for path in (ROOT / package).rglob("*.py")
        if "testing" not in path.parts
    )
    listed = re.findall(r"^\| `([A-Z][A-Za-z]+)` \|", text, re.MULTILINE)
    assert not [word for word in listed if f'"{word}"' not in code]


def test_every_output_is_in_the_reference_with_the_command_that_prints_it() -> None:
    from reconciler.cli.main import cli

    usages = documented_usages()
    printing = {" ".join(words) for words in commands_of(cli, ()) if "--json" in usages[words] and words != ("logs",)}
    named = re.findall(r"^[^|#]+: (`.+`)\.$", (REFERENCE / "json.md").read_text(), re.MULTILINE)
    assert {name for cell in named for name in re.findall(r"`([^`]+)`", cell)} == printing


def commands_of(group: click.Group, prefix: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The words of every command that is not hidden."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands_of(command, (*prefix, name))
        elif not command.hidden:
            yield (*prefix, name)


def test_every_command_is_in_the_reference_and_nothing_else() -> None:
    from reconciler.cli.main import cli

    listed = re.findall(r"^\| (`openclaw .+?) \| ", (REFERENCE / "commands.md").read_text(), re.MULTILINE)
    documented = set()
    for cell in listed:
        first, *others = (part.split() for part in re.findall(r"`([^`]+)`", cell))
        words = tuple(
            itertools.takewhile(lambda word: re.fullmatch(r"[a-z-]+", word) and not word.startswith("-"), first[1:])
        )
        documented |= {words, *((*words[:-1], *other) for other in others)}
    documented.discard(())
    assert documented == set(commands_of(cli, ()))


def documented_usages() -> dict[tuple[str, ...], set[str]]:
    """What commands.md names of each command: its options, and its arguments in capitals."""
    found = {}
    for cell in re.findall(r"^\| `openclaw (.+?)` \| ", (REFERENCE / "commands.md").read_text(), re.MULTILINE):
        words = tuple(itertools.takewhile(lambda word: re.fullmatch(r"[a-z]+", word), cell.split()))
        # What stands in brackets after an option is its value.
        usage = re.sub(r"(--?[a-z-]+) [^]]+", r"\1", " ".join(cell.split()[len(words) :]))
        found[words] = set(re.findall(r"--?[a-z][a-z-]*|\b[A-Z]+\b", usage))
    return found


def usage_of(command: click.Command) -> set[str]:
    """The same from the command itself, without what all commands have."""
    context = click.Context(command)
    options = {name for item in command.params if isinstance(item, click.Option) for name in item.opts}
    common = {"--file"} if "--follow" in options else {"-f", "--file"}
    arguments = [item for item in command.params if isinstance(item, click.Argument)]
    return (options - common) | {item.make_metavar(context).strip("[]") for item in arguments}


def test_every_option_and_argument_of_every_command_is_in_the_reference_and_no_other() -> None:
    from reconciler.cli.main import cli

    documented = documented_usages()
    for words in commands_of(cli, ()):
        command: click.Command = cli
        for word in words:
            assert isinstance(command, click.Group)
            inner = command.get_command(click.Context(command), word)
            assert inner is not None
            command = inner
        assert documented[words] == usage_of(command), " ".join(words)


@pytest.mark.parametrize("sort", ["Counter", "Gauge", "Histogram", "Summary", "Info"])
def test_every_metric_is_in_the_reference(sort: str) -> None:
    text = (REFERENCE / "metrics.md").read_text()
    for call, where in calls_of(sort):
        if call.args and isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str):
            assert f"`{call.args[0].value}`" in text, f"{call.args[0].value} of {where} is not in metrics.md"


def test_every_dependency_is_explained() -> None:
    text = (ROOT / "docs/explanation/dependencies.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]:
        name = re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0]
        assert f"`{name}`" in text, f"{name} is not in dependencies.md"


@pytest.mark.real
def test_generated_pages_are_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, ROOT / "docs/generate.py", "--check"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert checked.returncode == 0, checked.stderr


@pytest.mark.real
@pytest.mark.req("DOC-8")
def test_the_example_is_valid_and_tells_editors_where_its_schema_is(clean_env: dict[str, str], tmp_path: Path) -> None:
    example = ROOT / "openclaw.yaml.example"
    assert example.read_text().splitlines()[0].startswith("# yaml-language-server: $schema=")
    checked = run(
        [Path(sys.executable).parent / "openclaw", "validate", "--file", example], env=clean_env, cwd=tmp_path
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
