# Sourced after steps.sh: the checks that need no test to run, each a step.

bin=.venv/bin

lint_steps() {
    step 'ruff format' "$bin/ruff" format --check --quiet .
    step 'ruff check' "$bin/ruff" check --quiet .
    step 'mypy' "$bin/mypy" --no-error-summary
    step 'mypy docs' "$bin/mypy" --no-error-summary docs/generate.py
    step 'import rules' "$bin/lint-imports" --no-cache
    step 'flake8-async' async_check
    step 'generated pages' "$bin/python" docs/generate.py --check
    step 'coverage table' "$bin/python" -m tests.coverage_table --check
}

# Only files with something asynchronous in them: it parses slowly, and has nothing to say about the others.
# ASYNC124 (async without await): a method of a Protocol is async whether or not this one has to wait.
# ASYNC114 (startable function not listed): every function with `task_status`, by name, on this command line.
# ASYNC9xx: where checkpoints lie, for libraries that promise one in every call.
async_check() {
    git ls-files -z --cached --others --exclude-standard '*.py' |
        xargs -0 grep -lZE '^ *async (def|with|for) |^(import|from) trio' |
        xargs -0 -P 2 -n 8 "$bin/flake8-async" --disable ASYNC114,ASYNC124,ASYNC900,ASYNC910,ASYNC911,ASYNC912,ASYNC913
}
