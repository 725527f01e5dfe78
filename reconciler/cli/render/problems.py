"""What is wrong with a document, for programs. Pure."""

from __future__ import annotations

from typing import Any


def validate_json(problems: tuple[object, ...]) -> dict[str, Any]:
    """What `openclaw validate --json` prints (schema `openclaw.validate/1`)."""
    from reconciler.document.problems import Problem, problem_json

    return {
        "schema": "openclaw.validate/1",
        "problems": [problem_json(problem) for problem in problems if isinstance(problem, Problem)],
    }
