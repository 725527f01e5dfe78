"""The scripts behind `make`, in checkouts and on machines that lack something: what they say, and what they leave alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What the scripts themselves call; everything else on PATH is the test's.
BASICS = ("sh", "dirname", "cksum", "cat", "rm", "tail", "date", "mktemp", "chmod", "mv", "sed")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that holds only the scripts and what they read, and a `bin` that is all of PATH."""
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    (tmp_path / "tests/beds").mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / "bin").mkdir()
    for name in BASICS:
        found = shutil.which(name)
        assert found is not None
        (tmp_path / "bin" / name).symlink_to(found)
    return tmp_path


def stub(path: Path, body: str) -> None:
    """A program that notes its call in `calls`, then runs `body`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\necho "{path.name} $*" >>"$CALLS"\n{body}\n')
    path.chmod(0o755)


def call(checkout: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        cwd=checkout,
        env={
            "PATH": str(checkout / "bin"),
            "CALLS": str(checkout / "calls"),
            "POLICY_RC_D": str(checkout / "policy-rc.d"),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def calls(checkout: Path) -> list[str]:
    log = checkout / "calls"
    return log.read_text().splitlines() if log.exists() else []


pytestmark = pytest.mark.real

OLD = "exit 1"  # what asking for 3.11 gives on an older Python, and on a shim with nothing behind it
WITHOUT_ENSUREPIP = 'case "$*" in *ensurepip*) exit 1 ;; *print*) echo 3.12 ;; esac'


def test_without_a_usable_python_one_sentence_says_so(checkout: Path) -> None:
    stub(checkout / "bin/python3", OLD)
    done = call(checkout, "tools/environment", "run")
    assert done.returncode == 1
    assert "no Python 3.11 or newer found (tried python3.13, python3.12, python3.11, python3)" in done.stderr
    assert not (checkout / ".venv").exists()


def test_a_python_without_venv_is_named_with_the_package_that_has_it(checkout: Path) -> None:
    stub(checkout / "bin/python3.13", OLD)
    stub(checkout / "bin/python3.12", WITHOUT_ENSUREPIP)
    done = call(checkout, "tools/environment", "run")
    assert done.returncode == 1
    assert "python3.12 lacks the modules venv and ensurepip" in done.stderr
    assert "apt-get install python3.12-venv" in done.stderr


def test_it_installs_once_and_again_only_when_the_project_file_has_changed(checkout: Path) -> None:
    stub(checkout / ".venv/bin/python", "")
    for expected in (1, 1):
        assert call(checkout, "tools/environment", "test").returncode == 0
        assert len([line for line in calls(checkout) if "install" in line]) == expected
    done = call(checkout, "tools/environment", "run")
    assert (done.returncode, done.stderr) == (0, ""), "what the tests need holds what a run needs"
    (checkout / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert call(checkout, "tools/environment", "run").returncode == 0
    installs = [line for line in calls(checkout) if "install" in line]
    assert [line.rpartition(" ")[2] for line in installs] == [".[test]", "."]


def test_an_installation_that_failed_is_tried_again(checkout: Path) -> None:
    stub(checkout / ".venv/bin/python", 'case "$*" in *install*) echo "no such index" >&2; exit 1 ;; esac')
    for _ in range(2):
        done = call(checkout, "tools/environment", "run")
        assert done.returncode == 1
        assert "no such index" in done.stderr
        assert "cannot prepare .venv: pip could not install it" in done.stderr


@pytest.mark.parametrize("name", ["two words", 'a "$x" `y` \\z', "n" * 120])
def test_the_command_starts_where_its_interpreter_has_a_path_that_no_kernel_takes(checkout: Path, name: str) -> None:
    place = checkout / name
    place.mkdir()
    for part in ("tools", "tests", "pyproject.toml", "bin"):
        shutil.move(checkout / part, place / part)
    python, command = place / ".venv/bin/python", place / ".venv/bin/openclaw"
    # As pip does it: the interpreter comes into the first line as it is.
    stub(
        python,
        'case "$*" in *install*) { echo "#!$PWD/.venv/bin/python"; sed 1d tools/openclaw; } >.venv/bin/openclaw; '
        "chmod +x .venv/bin/openclaw ;; esac",
    )
    made = call(place, "tools/environment", "run")
    assert made.returncode == 0, made.stderr
    done = call(place, str(command), "plan", "two words")
    assert done.returncode == 0, done.stderr
    assert calls(place)[-1] == f"python {command} plan two words"
    # What the shell reads is nothing to Python.
    compile(command.read_text(), "openclaw", "exec")


@pytest.mark.parametrize(("uid", "installed"), [("1000", False), ("0", True)])
def test_missing_components_are_installed_by_root_only_and_named_otherwise(
    checkout: Path, uid: str, installed: bool
) -> None:
    (checkout / "tests/beds/debian-packages.txt").write_text("# words\nthere sh\nabsent no-such-program\n")
    stub(checkout / "bin/id", f"echo {uid}")
    stub(checkout / "bin/apt-get", "")
    done = call(checkout, "tools/components")
    assert done.returncode == 0
    expected = ["apt-get update -qq", "apt-get install -y -qq --no-install-recommends absent"] if installed else []
    assert [line for line in calls(checkout) if line.startswith("apt-get")] == expected
    assert ("not installed: absent (needs root: apt-get install absent)" in done.stdout) is not installed


@pytest.mark.parametrize("existing", [None, "the image's own\n"])
def test_no_daemon_is_started_by_a_package_and_an_existing_policy_stays(checkout: Path, existing: str | None) -> None:
    policy = checkout / "policy-rc.d"
    if existing is not None:
        policy.write_text(existing)
    (checkout / "tests/beds/debian-packages.txt").write_text("absent no-such-program\n")
    stub(checkout / "bin/id", "echo 0")
    stub(checkout / "bin/apt-get", 'cat "$POLICY_RC_D" >>"$CALLS"')
    assert call(checkout, "tools/components").returncode == 0
    assert (existing.strip() if existing else "exit 101") in calls(checkout)
    assert (policy.read_text() if policy.exists() else None) == existing


def test_nothing_is_asked_of_apt_when_nothing_is_missing(checkout: Path) -> None:
    (checkout / "tests/beds/debian-packages.txt").write_text("there sh\n")
    stub(checkout / "bin/apt-get", "")
    done = call(checkout, "tools/components")
    assert (done.returncode, done.stdout, calls(checkout)) == (0, "", [])


def test_a_package_without_a_program_is_known_by_a_file(checkout: Path) -> None:
    listed = checkout / "tests/beds/debian-packages.txt"
    listed.write_text(f"there {listed}\nabsent {listed}.gone\n")
    stub(checkout / "bin/id", "echo 1000")
    stub(checkout / "bin/apt-get", "")
    assert "apt-get install absent)" in call(checkout, "tools/components").stdout


def test_without_a_network_the_missing_are_named_and_the_checks_go_on(checkout: Path) -> None:
    (checkout / "tests/beds/debian-packages.txt").write_text("absent no-such-program\n")
    stub(checkout / "bin/id", "echo 0")
    stub(checkout / "bin/apt-get", "exit 100")
    done = call(checkout, "tools/components")
    assert done.returncode == 0
    assert "not installed: absent (apt-get update did not succeed)" in done.stdout


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_ctrl_c_is_heard_also_while_the_plan_ends_well(checkout: Path, shell: str) -> None:
    """A bash that waits for a program takes a Ctrl-C for that program's own, unless it dies of it."""
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"no {shell} here")
    stub(checkout / ".venv/bin/python", "")
    # To the whole group, as a terminal sends it; the plan is done and has no use for it.
    stub(checkout / ".venv/bin/openclaw", 'trap : INT\n[ "$1" != plan ] || kill -INT 0')
    (checkout / "openclaw.yaml").touch()
    done = subprocess.run(
        [found, "tools/run"],
        cwd=checkout,
        env={"PATH": str(checkout / "bin"), "CALLS": str(checkout / "calls")},
        capture_output=True,
        check=False,
        timeout=60,
        start_new_session=True,
    )
    assert done.returncode == -signal.SIGINT, done
    assert [line for line in calls(checkout) if line.startswith("openclaw")] == ["openclaw plan"]


def test_a_trial_heeds_no_variable_of_a_machines_own_openclaw(checkout: Path) -> None:
    for name in ("python", "openclaw"):
        stub(checkout / ".venv/bin" / name, 'env | sed -n "s/^OPENCLAW_/env &/p" >>"$CALLS"')
    (checkout / "bin/env").symlink_to(shutil.which("env") or "")
    names = ("FILE", "PROFILE", "HOME", "CONFIG_PATH", "STATE_DIR", "GATEWAY_PORT", "GATEWAY_HOST", "GATEWAY_TOKEN")
    done = call(checkout, "env", *(f"OPENCLAW_{name}=x" for name in names), "tools/run")
    assert done.returncode == 0, done.stderr
    _, _, seen = "\n".join(calls(checkout)).partition("openclaw run\n")
    # A secret is asked for by the document alone.
    assert sorted(seen.splitlines()) == [
        "env OPENCLAW_GATEWAY_TOKEN=x",
        f"env OPENCLAW_STATE_DIR={checkout / '.openclaw'}",
    ]


def test_steps_go_on_after_a_failure_and_the_report_names_it(checkout: Path) -> None:
    script = ". tools/steps.sh; step first sh -c 'exit 3'; step second true; report"
    done = call(checkout, "sh", "-euc", script)
    assert done.returncode == 1
    first, second = done.stdout.splitlines()[-2:]
    assert first.split()[1:] == ["s", "FAILED", "(3)", "first"]
    assert second.split()[1:] == ["s", "ok", "second"]


def test_every_script_is_executable_and_every_target_has_one() -> None:
    for script in (ROOT / "tools").iterdir():
        assert os.access(script, os.X_OK) == (script.suffix != ".sh"), script
    assert os.access(ROOT / ".ci/run", os.X_OK)
