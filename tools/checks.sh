# Sourced after steps.sh: the checks that need no test to run, each a step.

bin=.venv/bin

lint_steps() {
    step 'ruff format' "$bin/ruff" format --check --quiet .
    step 'ruff check' "$bin/ruff" check --quiet .
    step 'mypy' "$bin/mypy" --no-error-summary
    step 'mypy docs' "$bin/mypy" --no-error-summary docs/generate.py
    step 'import rules' "$bin/lint-imports" --no-cache
    # The linter takes a list of files; git knows which ones are ours.
    step 'flake8-async' sh -c 'git ls-files -z --cached --others --exclude-standard "*.py" | xargs -0 '"$bin"'/flake8-async --disable ASYNC900,ASYNC910,ASYNC911,ASYNC912,ASYNC913'
    step 'generated pages' "$bin/python" docs/generate.py --check
    step 'coverage table' "$bin/python" -m tests.coverage_table --check
}
