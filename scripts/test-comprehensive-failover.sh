#!/usr/bin/env bash
# Five tests on a compose lab of its own: health, automated failover, controlled failover, monitoring,
# load during a failover. Brings the lab up and removes it with its data on exit; a lab that is there
# already is used as it is, and stays.
#
#   scripts/test-comprehensive-failover.sh        writes test-results-YYYYmmdd-HHMMSS.log
#
# Exit codes: 0 all passed, 1 one has failed, 8 a prerequisite (Docker, jq).
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib/common.sh
. "$ROOT/scripts/lib/common.sh"
# shellcheck source=scripts/lib/compose.sh
. "$ROOT/scripts/lib/compose.sh"
# shellcheck source=scripts/lib/docker-lab.sh
. "$ROOT/scripts/lib/docker-lab.sh"
# shellcheck source=scripts/lib/drills.sh
. "$ROOT/scripts/lib/drills.sh"

LOG=test-results-$(date +%Y%m%d-%H%M%S).log
MINE=''

log() { printf '%s %s\n' "$(date +%H:%M:%S)" "$*" | tee -a "$LOG"; }

clean_up() {
    [[ -z ${WORK-} ]] || rm -rf "$WORK"
    if [[ $MINE ]]; then
        log "removing the lab and its data"
        compose down -v >>"$LOG" 2>&1 || log "docker compose down -v failed"
    fi
}

# Batches of 50 appointments every 2 s while the primary is stopped.
test_load_during_failover() {
    local old round batch made=0 dropped=0
    await_settled
    old=$(primary_service)
    for round in {1..8}; do
        ((round != 3)) || stop_service "$old"
        if batch=$(appointments 50 'Load during failover' 2>/dev/null); then made=$((made + batch)); else dropped=$((dropped + 1)); fi
        sleep 2
    done
    # Two batches before the stop, and two of the five after it at the least.
    ((made >= 200)) || fail "only $made rows could be written"
    start_service "$old"
    await_settled
    [[ $(client_sql "$(app_database)" "with gone as (delete from appointments where chief_complaint = 'Load during failover' returning 1) select count(*) >= $made from gone") == t ]] ||
        fail "not all of the $made rows are there"
    detail "$made rows, $dropped of 8 batches dropped"
}

main() {
    local name rc passed=0 failed=0 names=(cluster_health automated_failover controlled_failover monitoring load_during_failover)
    (($# == 0)) || { sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; [[ $1 == --help || $1 == -h ]] && exit 0 || exit 2; }
    need_jq
    type -P docker >/dev/null || die 8 "Docker is not installed" "scripts/health-check.sh"
    : >"$LOG" || die 8 "cannot write $LOG here"
    WORK=$(mktemp -d)
    trap clean_up EXIT
    if [[ $(lab_volumes) || $(lab_containers) ]]; then
        log "using the lab that is there; it stays"
        is_running pgaf-monitor || die 5 "the lab is there, but does not run" "docker compose up -d, or scripts/lab reset --docker to begin anew"
    else
        log "bringing a lab up"
        MINE=1
        (docker_up) >>"$LOG" 2>&1 || die 1 "the lab could not be brought up" "see $LOG"
    fi
    for name in "${names[@]}"; do
        : >"$WORK/detail"
        set +e
        (
            set -e
            "test_$name"
        ) >>"$LOG" 2>&1 </dev/null
        rc=$?
        set -e
        if ((rc == 0)); then
            passed=$((passed + 1))
            log "PASSED $name: $(paste -sd';' "$WORK/detail" 2>/dev/null)"
        else
            failed=$((failed + 1))
            log "FAILED $name: $(grep -E '^(failed|error): ' "$LOG" | tail -n 1 || true)"
        fi
    done
    log "run ${#names[@]}, passed $passed, failed $failed; log: $LOG"
    ((failed == 0))
}

main "$@"
