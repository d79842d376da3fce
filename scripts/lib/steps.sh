# Sourced by scripts/verify and scripts/test: steps with their time. All run, then the verdict.

FAILED=()

step() { # TITLE COMMAND…
    local title=$1 rc=0 began=$SECONDS
    shift
    printf '== %s\n' "$title"
    # A subshell of its own, so that `set -e` holds in it.
    set +e
    (
        set -e
        "$@"
    )
    rc=$?
    set -e
    if ((rc == 0)); then
        printf '== %s: ok (%d s)\n' "$title" $((SECONDS - began))
    else
        printf '== %s: FAILED with exit code %d (%d s)\n' "$title" "$rc" $((SECONDS - began))
        FAILED+=("$title")
    fi
}

end_of_steps() { # exit code 1 when a step failed
    ((${#FAILED[@]} == 0)) && return
    local IFS=';'
    say "error: failed: ${FAILED[*]}"
    exit 1
}

has_nextest() { cargo nextest --version >/dev/null 2>&1; }
