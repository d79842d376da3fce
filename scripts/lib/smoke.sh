# Sourced by scripts/test: scripts/lab as a user has it, checked from outside.

smoke_tests() { # WORK: a folder with the programs in bin/
    local checks=(
        starts_with_node1_as_primary
        insert_is_seen_on_both_standbys
        monitor_answers_sql_without_password
        second_up_changes_nothing
        another_lab_is_told_who_holds_the_port
        bad_usage_is_one_error_line
        keeper_killed_leaves_postgres_alone
        frozen_node_thaws
        stopped_node_comes_back
        demo_loses_nothing
        down_keeps_the_data
        reset_leaves_nothing
    )
    local check rc passed=0 failed=0 log=$1/smoke.log
    export PGVIGIL_LAB_DIR=$1/lab PGVIGIL_BIN_DIR=$1/bin PGPASSWORD=postgres_password PGCONNECT_TIMEOUT=5
    for check in "${checks[@]}"; do
        set +e
        (
            set -e
            trap 'echo "line $LINENO: $BASH_COMMAND"' ERR
            set -E
            "smoke_$check"
        ) >"$log" 2>&1 </dev/null
        rc=$?
        set -e
        if ((rc == 0)); then
            passed=$((passed + 1))
            printf '  ok      %s\n' "$check"
        else
            failed=$((failed + 1))
            printf '  FAILED  %s\n' "$check"
            tail -n 80 "$log"
            # Without a lab there is nothing to check.
            [[ $check != "${checks[0]}" ]] || break
        fi
    done
    ((failed == 0)) || { scripts/lab logs || true; } >"$1/lab.log" 2>&1
    scripts/lab reset >/dev/null 2>&1 || true
    printf 'lab: %d passed, %d failed\n' "$passed" "$failed"
    ((failed == 0))
}

sql_on() { # PORT SQL
    "$(psql_path)" -XAtq -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$1" -U postgres -d postgres -c "$2"
}

sees() { [[ $(sql_on "$1" "$2") == "$3" ]]; } # PORT SQL ANSWER

lab_is_healthy() { scripts/lab status --json | grep -q '"healthy":true'; }

expect_error() { # EXIT_CODE TEXT COMMAND…: one `error:` line with the text, nothing on stdout
    local want=$1 text=$2 rc=0 out errors
    shift 2
    out=$("$@" 2>"$TMP_ERR") || rc=$?
    cat "$TMP_ERR"
    [[ $rc == "$want" && -z $out ]]
    errors=$(grep -c '^error: ' "$TMP_ERR")
    [[ $errors == 1 ]]
    grep '^error: ' "$TMP_ERR" | grep -qF -- "$text"
}

smoke_starts_with_node1_as_primary() {
    scripts/lab up
    eval "$(scripts/lab env)"
    [[ $LAB_DIR == "$PGVIGIL_LAB_DIR" ]]
    pgctl show-state --json >"$LAB_DIR/../state.json"
    local states
    states=$(tr -d ' \n' <"$LAB_DIR/../state.json" | grep -oE '"(nodename|reportedstate|health)":("[a-z0-9_]+"|-?[0-9])' | cut -d: -f2)
    [[ $(grep -c '^"primary"' <<<"$states") == 1 ]]
    [[ $(grep -c '^"secondary"' <<<"$states") == 2 ]]
    [[ $(grep -c '^1$' <<<"$states") == 3 ]]
    sees 5432 'select pg_is_in_recovery()' f
}

smoke_insert_is_seen_on_both_standbys() {
    sql_on 5432 'create table smoke (id int); insert into smoke values (42)'
    wait_for 10 sees 5433 'select id from smoke' 42
    wait_for 10 sees 5434 'select id from smoke' 42
    [[ $(scripts/lab psql -XAtc 'select inet_server_port()') == 5432 ]]
}

smoke_monitor_answers_sql_without_password() {
    local rows
    rows=$(env -u PGPASSWORD "$(psql_path)" -XAtw -h 127.0.0.1 -p 5431 -U autoctl_node -d pg_auto_failover \
        -c 'select nodename, reportedstate, health from pgautofailover.node order by 1')
    [[ $rows == $'node1|primary|1\nnode2|secondary|1\nnode3|secondary|1' ]]
}

smoke_second_up_changes_nothing() {
    local before
    before=$(scripts/lab status --json)
    scripts/lab up
    [[ $(scripts/lab status --json) == "$before" ]]
}

smoke_another_lab_is_told_who_holds_the_port() {
    local pid TMP_ERR=$PGVIGIL_LAB_DIR/../stderr
    pid=$(scripts/lab pid monitor keeper)
    expect_error 8 "port 6000 is busy: pid $pid (vigil-monitor)" \
        env PGVIGIL_LAB_DIR="$PGVIGIL_LAB_DIR-other" scripts/lab up
    [[ ! -e $PGVIGIL_LAB_DIR-other ]]
    lab_is_healthy
}

smoke_bad_usage_is_one_error_line() {
    local TMP_ERR=$PGVIGIL_LAB_DIR/../stderr
    expect_error 2 'unknown command: fly' scripts/lab fly
    expect_error 2 'unexpected argument: now' scripts/lab up now
    expect_error 4 'no such node: node9' scripts/lab kill node9
    expect_error 2 'unexpected argument: now' scripts/lab up --docker now
}

smoke_keeper_killed_leaves_postgres_alone() {
    local TMP_ERR=$PGVIGIL_LAB_DIR/../stderr pid
    pid=$(scripts/lab pid node1 postgres)
    # One that is written to: an idle primary whose keeper is away for three heartbeats is replaced.
    sql_on 5432 "do \$\$ begin
        for i in 1..600 loop
            perform pg_logical_emit_message(true, 'smoke', '');
            commit;
            perform pg_sleep(0.1);
        end loop;
    end \$\$" &
    # shellcheck disable=SC2064 # this one
    trap "kill $! 2>/dev/null || true" EXIT
    scripts/lab kill node1 keeper
    expect_error 4 'the keeper of node1 is not running' scripts/lab pid node1 keeper
    sql_on 5432 'insert into smoke values (43)'
    scripts/lab start node1
    wait_for 30 lab_is_healthy
    [[ $(scripts/lab pid node1 postgres) == "$pid" ]]
}

smoke_frozen_node_thaws() {
    scripts/lab freeze node3
    scripts/lab status --json | grep -q '"name":"node3","keeper":{"state":"frozen"'
    scripts/lab thaw node3
    wait_for 30 lab_is_healthy
}

smoke_stopped_node_comes_back() {
    scripts/lab stop node2
    scripts/lab status --json |
        grep -q '"name":"node2","keeper":{"state":"stopped","pid":null},"postgres":{"state":"stopped"'
    sql_on 5432 'insert into smoke values (44)'
    scripts/lab start node2
    wait_for 60 lab_is_healthy
}

smoke_demo_loses_nothing() {
    local out
    out=$(scripts/lab demo --json)
    printf '%s\n' "$out"
    [[ $out =~ ^\{\"outage_ms\":([0-9]+),\"acked\":([0-9]+),\"lost\":0, ]]
    ((BASH_REMATCH[1] > 0 && BASH_REMATCH[1] < 10000 && BASH_REMATCH[2] >= 100))
    lab_is_healthy
}

smoke_down_keeps_the_data() {
    scripts/lab down
    [[ $(scripts/lab status --json | grep -oE '"state":"[a-z]+"' | sort -u) == '"state":"stopped"' ]]
    scripts/lab up
    [[ $(scripts/lab psql -XAtc 'select count(*) from smoke') == 3 ]]
}

smoke_reset_leaves_nothing() {
    local pids
    pids=$(cut -d' ' -f1 "$PGVIGIL_LAB_DIR"/pids/*)
    scripts/lab reset
    [[ ! -e $PGVIGIL_LAB_DIR ]]
    local pid
    for pid in $pids; do [[ $(cut -d' ' -f3 "/proc/$pid/stat" 2>/dev/null || echo Z) == Z ]]; done
}
