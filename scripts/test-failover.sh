#!/usr/bin/env bash
# A failover on the running compose lab, as the guides have it: is the lab well, 1000 rows, stop the
# primary, wait for the next one, count the rows.
#
#   scripts/test-failover.sh        the lab is as before afterwards; the rows are removed
#
# Clients ask `pgctl show-uri` where to write after the failover.
# Exit codes: 0 passed, 1 failed, 5 the lab does not run (scripts/lab up --docker), 8 a prerequisite.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=scripts/lib/common.sh
. "$ROOT/scripts/lib/common.sh"
# shellcheck source=scripts/lib/compose.sh
. "$ROOT/scripts/lib/compose.sh"

ROWS=1000
OLD=

clean_up() {
    [[ -z $OLD ]] || is_running "$OLD" || start_service "$OLD"
    client_sql "$(app_database)" "delete from audit_log where actor = 'test_user'" >/dev/null 2>&1 || true
}

count() { client_sql "$(app_database)" "select count(*) from audit_log where actor = 'test_user'"; }

main() {
    local began round now='' after
    (($# == 0)) || { sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; [[ $1 == --help || $1 == -h ]] && exit 0 || exit 2; }
    need_jq
    is_running pgaf-monitor || die 5 "the compose lab does not run" "scripts/lab up --docker"
    echo "1. health"
    wait_for 30 is_settled || die 5 "the lab is not 1 primary and 2 secondaries" "docker exec pgaf-monitor pgctl explain"
    OLD=$(primary_service)
    trap clean_up EXIT
    echo "   primary: $(node_of "$OLD") ($OLD)"
    echo "2. $ROWS rows"
    client_sql "$(app_database)" "delete from audit_log where actor = 'test_user'"
    client_sql "$(app_database)" "insert into audit_log (actor, action, context) select 'test_user', 'failover_test', jsonb_build_object('n', n) from generate_series(1, $ROWS) as n"
    [[ $(count) == "$ROWS" ]] || die 1 "$(count) rows were inserted, not $ROWS"
    echo "3. stop $OLD"
    began=$(now_us)
    stop_service "$OLD"
    for round in {1..12}; do
        if is_primary_other_than "$(node_of "$OLD")"; then
            now=$(primary_node)
            break
        fi
        echo "   no new primary yet ($round of 12)"
        sleep 5
    done
    [[ $now ]] || die 1 "no new primary after 60 s" "docker exec pgaf-monitor pgctl explain"
    echo "   new primary: $now ($(service_of "$now")), $((($(now_us) - began) / 1000)) ms after the stop was asked for"
    echo "4. the rows at $(read_write_uri)"
    after=$(count)
    [[ $after == "$ROWS" ]] || die 1 "$after of $ROWS rows are there after the failover"
    echo "   all $after"
    echo "5. start $OLD"
    start_service "$OLD"
    wait_for 60 is_settled || die 1 "$OLD is not a secondary after 60 s" "docker exec pgaf-monitor pgctl explain"
    echo "   a secondary again"
    echo "passed"
}

main "$@"
