# Sourced by the other scripts: runs named steps, goes on after a failure, and says at the end what failed and where time went.

steps_report=$(mktemp)
steps_failed=0
trap 'rm -f "$steps_report"' EXIT
# An interrupt ends the whole run at once, and not only the step.
trap 'exit 130' INT
trap 'exit 143' TERM

step() { # step NAME COMMAND...
    step_name=$1
    shift
    printf '\n== %s\n' "$step_name"
    step_began=$(date +%s)
    if "$@"; then
        step_result=ok
    else
        step_result="FAILED ($?)"
        steps_failed=1
    fi
    printf '%6s s  %-12s %s\n' "$(($(date +%s) - step_began))" "$step_result" "$step_name" >>"$steps_report"
}

report() { # the table, then the exit status of the whole
    printf '\n== where the time went\n'
    cat "$steps_report"
    return "$steps_failed"
}
