# Sourced by scripts/lab-tests and the other test scripts of the compose lab: the checks and drills.
# Each test is a function test_NAME that ends with exit code 0 when all of it held; what it measured
# it says with `detail`. Needs compose.sh; WORK is a folder for the clients' notes.

detail() { printf '%s\n' "$*" >>"$WORK/detail"; } # for the report

ms_since() { printf '%d' $((($(now_us) - $1) / 1000)); }

seconds_of_ms() { awk -v ms="$1" 'BEGIN { printf "%.1f", ms / 1000 }'; }

at_most() { # WHAT MS LIMIT_MS
    detail "$1 $(seconds_of_ms "$2") s"
    (($2 <= $3)) || fail "$1 took $2 ms, at most $3 ms were allowed"
}

# --- clients ---------------------------------------------------------------------------------------------------

# Writers in the monitor's container, one per node; see writer.sh.
start_writers() { # [SECONDS]
    client_sql "$(app_database)" 'set client_min_messages = warning' 'create table if not exists lab_writes (id text primary key, at timestamptz not null default clock_timestamp())' >/dev/null
    : >"$WORK/acks"
    start_writer pgaf-monitor "${1:-180}" "${SERVICES[@]}"
    wait_for 20 has_acks 30 || fail "the writers could not begin: $(head -n 3 "$WORK/writer.err")"
}

start_writer() { # CONTAINER SECONDS HOST…
    docker exec -i -e PGPASSWORD="$(env_value POSTGRES_PASSWORD)" -e PGUSER=postgres -e PGCONNECT_TIMEOUT=2 "$1" \
        timeout $(($2 + 10)) bash -s -- "$2" "$(app_database)" "${@:3}" <"$ROOT/scripts/lib/writer.sh" >>"$WORK/acks" 2>>"$WORK/writer.err" &
    WRITERS+=($!)
}
WRITERS=()

has_acked() { grep -q " $1 " "$WORK/acks"; } # NAME

has_acks() { (($(wc -l <"$WORK/acks") >= $1)); } # NUMBER

stop_writers() { # [CONTAINER…]: where they run beside the monitor's
    local container
    WRITERS_END=$EPOCHREALTIME
    for container in pgaf-monitor "$@"; do
        docker exec "$container" touch /tmp/lab-writer.stop 2>/dev/null || true
    done
    wait_for 20 writers_are_gone || fail "the writers do not end"
    WRITERS=()
}

writers_are_gone() {
    local pid
    for pid in "${WRITERS[@]}"; do ! kill -0 "$pid" 2>/dev/null || return 1; done
}

# The longest time without an acknowledged commit of whichever node, in ms.
outage_ms() {
    { cat "$WORK/acks" && printf '%s the end\n' "$WRITERS_END"; } | sort -n | awk 'NR > 1 && $1 - last > most { most = $1 - last } { last = $1 } END { printf "%d", most * 1000 }'
}

# How many ms two nodes acknowledged side by side: each has one time from its first to its last
# commit. More than 0 is two primaries; a reply may be read a little late.
overlap_ms() {
    sort -n "$WORK/acks" | awk '
        { if (!($2 in first)) first[$2] = $1; last[$2] = $1 }
        END {
            for (a in first) for (b in first) if (a < b) {
                begin = first[a] > first[b] ? first[a] : first[b]
                end = last[a] < last[b] ? last[a] : last[b]
                if (end - begin > most) most = end - begin
            }
            printf "%d", most * 1000
        }'
}

# Every acknowledged row must be there, on the node that is writable now.
check_acks() { # NODES: so many may have acknowledged, one after the other
    local acked lost nodes overlap
    acked=$(wc -l <"$WORK/acks")
    lost=$(missing_rows)
    nodes=$(cut -d' ' -f2 "$WORK/acks" | sort -u | wc -l)
    overlap=$(overlap_ms)
    detail "$acked commits acknowledged, $lost lost"
    ((lost == 0)) || fail "$lost of $acked acknowledged commits are not there"
    ((overlap <= 100)) || fail "two nodes acknowledged commits side by side for $overlap ms"
    ((nodes <= $1)) || fail "$nodes nodes acknowledged commits, at most $1 were expected"
}

missing_rows() {
    local service
    service=$(primary_service) || fail "no primary"
    {
        echo 'create temp table acked (id text); copy acked from stdin;'
        cut -d' ' -f3 "$WORK/acks"
        echo '\.'
        echo 'select count(*) from acked left join lab_writes using (id) where lab_writes.id is null;'
    } | docker exec -i -e PGPASSWORD="$(env_value POSTGRES_PASSWORD)" "$service" \
        psql -XAtq -v ON_ERROR_STOP=1 -h 127.0.0.1 -U postgres -d "$(app_database)"
}

# --- faults -------------------------------------------------------------------------------------------------------

inject() { # FAULT NAME
    case $1 in
        stop) stop_service "$2" ;;
        kill) kill_service "$2" ;;
        pause) docker pause "$2" >/dev/null ;;
        disconnect) cut_service "$2" ;;
    esac
}

heal() { # FAULT NAME
    case $1 in
        stop | kill) start_service "$2" ;;
        pause) docker unpause "$2" >/dev/null ;;
        disconnect) mend_service "$2" ;;
    esac
}

is_back_as_secondary() { # NAME
    show_state | jq -e --arg n "$(node_of "$1")" '.nodes[] | select(.nodename == $n) | .reportedstate == "secondary" and .health == 1' >/dev/null
}

# The primary meets a fault while clients write; the outage they see, and how long after healing it
# is a secondary again.
drill() { # FAULT OUTAGE_LIMIT_MS REJOIN_LIMIT_MS
    local fault=$1 old began
    await_settled
    old=$(primary_service)
    start_writers
    sleep 1
    inject "$fault" "$old"
    wait_for 60 is_primary_other_than "$(node_of "$old")" || fail "no new primary 60 s after $fault of $old"
    sleep 2
    has_acked "$(primary_service)" || fail "nobody could write on the new primary within 2 s"
    heal "$fault" "$old"
    began=$(now_us)
    wait_for 90 is_back_as_secondary "$old" || fail "$old is not a secondary again 90 s after it was healed: $(state_of "$old")"
    local rejoin
    rejoin=$(ms_since "$began")
    await_settled
    wait_for 5 standbys_are "coalesce(replay_lag, '0') < '1 s'" || fail "a standby is more than a second behind"
    stop_writers
    at_most "$fault: outage" "$(outage_ms)" "$2"
    at_most "rejoin" "$rejoin" "$3"
    check_acks 2
}

set_heartbeat() { lab_pgctl set-formation --heartbeat-interval "$1" --heartbeat-misses "$2" >/dev/null; } # INTERVAL MISSES

own_heartbeat() { set_heartbeat "$(env_value PG_AUTOCTL_HEARTBEAT 1)s" "$(env_value PG_AUTOCTL_TIMEOUT 3)"; }

# --- the five tests ---------------------------------------------------------------------------------------------------

count_rows() { # NAME: a line per table
    node_sql "$1" "$(app_database)" "select string_agg(t || '=' || n, ' ' order by t) from (
        select table_name as t, (xpath('/row/n/text()', query_to_xml('select count(*) as n from ' || quote_ident(table_name), false, true, '')))[1]::text as n
        from information_schema.tables where table_schema = 'public' and table_name <> 'lab_writes') as counts"
}

is_in_recovery() { node_sql "$1" postgres 'select pg_is_in_recovery()'; }

test_cluster_health() { # S3-56
    local primary counts service
    await_settled 60
    primary=$(primary_service)
    [[ $(is_in_recovery "$primary") == f ]] || fail "$primary is in recovery"
    counts=$(count_rows "$primary")
    [[ $(wc -w <<<"$counts") == 8 ]] || fail "not eight tables: $counts"
    for service in $(others_than "$primary"); do
        [[ $(is_in_recovery "$service") == t ]] || fail "$service is not in recovery"
        wait_for 10 same_counts "$service" "$counts" || fail "$service has $(count_rows "$service"), the primary has $counts"
    done
    detail "$(node_of "$primary") is primary; $counts on all three"
}

same_counts() { [[ $(count_rows "$1") == "$2" ]]; }

patients() { client_sql "$(app_database)" 'select count(*) from patients'; }

test_automated_failover() { # S3-57
    local old before began
    await_settled
    before=$(patients)
    old=$(primary_service)
    stop_service "$old"
    began=$(now_us)
    wait_for 30 is_primary_other_than "$(node_of "$old")" || fail "no new primary within 30 s"
    detail "$(node_of "$old") stopped, $(primary_node) is primary after $(seconds_of_ms "$(ms_since "$began")") s"
    [[ $(patients) == "$before" ]] || fail "patients: $before before, $(patients) after"
    start_service "$old"
    wait_for 60 is_back_as_secondary "$old" || fail "$old has not come back as a secondary within 60 s"
}

test_controlled_failover() { # S3-58, S3-38: at most 15 s
    local old began id
    await_settled
    old=$(primary_node)
    began=$(now_us)
    docker exec pgaf-monitor /opt/pgaf/perform-failover.sh >"$WORK/out" 2>&1 || fail "perform-failover: $(cat "$WORK/out")"
    at_most "perform-failover" "$(ms_since "$began")" 15000
    is_primary_other_than "$old" || fail "$old is still the primary"
    id=$(client_sql "$(app_database)" "insert into audit_log (actor, action, context) values ('test_user', 'controlled_failover', '{\"test\": true}') returning audit_id")
    await_settled
    [[ $(client_sql "$(app_database)" "select count(*) from audit_log where audit_id = $id") == 1 ]] || fail "the row is gone"
    client_sql "$(app_database)" "delete from audit_log where audit_id = $id"
}

http() { # URL [ARGS…]: through this machine's port, the body
    if type -P curl >/dev/null; then
        curl -sSf -m 5 "${@:2}" "$1"
    else
        wget -qO - -T 5 "$1"
    fi
}

prom_value() { # EXPRESSION: the first value
    docker exec prometheus promtool query instant -o json http://localhost:9090 "$1" 2>/dev/null | jq -r '.[0].value[1] // empty'
}

prom_rows() { # EXPRESSION
    docker exec prometheus promtool query instant -o json http://localhost:9090 "$1" 2>/dev/null | jq length
}

has_rows() { (($(prom_rows "$1") >= $2)); } # EXPRESSION NUMBER

test_monitoring() { # S3-59
    await_settled
    wait_for 20 has_rows pg_auto_failover_node_state_health_code 3 || fail "Prometheus has not three series pg_auto_failover_node_state_health_code"
    wait_for 20 has_rows 'pg_auto_failover_node_state_reported_state_code == 3' 1 || fail "Prometheus knows of no primary"
    wait_for 20 page_is_whole || fail "port 9187 lacks figures of the monitor or of Postgres"
    at_most "the page of port 9187" "$(awk '/^pgvigil_exporter_page_seconds / { printf "%d", $2 * 1000 }' "$WORK/page")" 1000
    [[ $(docker exec pgaf-monitor psql -d pg_auto_failover -XAtc 'select count(*) from pgautofailover.node') == 3 ]] ||
        fail "the monitor's SQL does not show three nodes"
    [[ $(docker exec pgaf-monitor psql -h pgaf-monitor -p 5431 -U autoctl_node -d pg_auto_failover -XAtc 'select 1') == 1 ]] ||
        fail "the monitor's port 5431 does not answer SQL"
    if is_offline; then
        detail "Grafana NOT RUN (its image is not there)"
    else
        http http://127.0.0.1:3000/api/health >/dev/null || fail "Grafana does not answer"
    fi
}

page_is_whole() { # a server that was too slow for one page is on the next one
    http http://127.0.0.1:9187/metrics >"$WORK/page" 2>/dev/null &&
        grep -q '^pg_auto_failover_node_state_health_code' "$WORK/page" &&
        grep -q '^pg_up{.*} 1$' "$WORK/page" &&
        grep -q '^pg_stat_replication_pg_wal_lsn_diff' "$WORK/page"
}

appointments() { # NUMBER TEXT: as many as there are combinations, at most NUMBER
    client_sql "$(app_database)" "with new as (insert into appointments (patient_id, provider_id, facility_id, appointment_date, appointment_time, duration_minutes, appointment_type, status, chief_complaint)
        select patient_id, provider_id, facility_id, current_date + 1, '09:00', 30, 'Load', 'scheduled', '$2'
        from (select patient_id, h.provider_id, f.facility_id from patients cross join healthcare_providers h cross join medical_facilities f limit $1) as all_of_them
        returning 1) select count(*) from new"
}

test_load() { # S3-60
    local before made lag
    await_settled
    before=$(client_sql "$(app_database)" 'select count(*) from appointments')
    made=$(appointments 100 'Load test appointment')
    [[ $made == 100 ]] || fail "$made appointments were made, not 100 (is LOAD_TEST_DATA true?)"
    # On the primary: a replica's pg_stat_replication is empty.
    wait_for 10 standbys_are true || fail "not two standbys stream"
    wait_for 10 standbys_are "pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn) < 1000" || fail "the standbys lag"
    lag=$(client_sql postgres 'select coalesce(max(extract(epoch from replay_lag) * 1000), 0)::int from pg_stat_replication')
    detail "100 appointments; replay lag $lag ms"
    [[ $(client_sql "$(app_database)" "with gone as (delete from appointments where chief_complaint = 'Load test appointment' returning 1) select count(*) from gone") == 100 ]] ||
        fail "not 100 appointments could be deleted"
    [[ $(client_sql "$(app_database)" 'select count(*) from appointments') == "$before" ]] || fail "another number of appointments than before"
}

standbys_are() { # CONDITION: both, as the primary sees them
    [[ $(client_sql postgres "select count(*) from pg_stat_replication where state = 'streaming' and $1") == 2 ]]
}

# --- drills ---------------------------------------------------------------------------------------------------------------

test_stop() { own_heartbeat; drill stop 2000 15000; }
test_kill() { set_heartbeat 1s 3; drill kill 6000 15000; }
test_pause() { set_heartbeat 1s 3; drill pause 6000 15000; }
test_disconnect() { set_heartbeat 1s 3; drill disconnect 6000 15000; }
# What pg_auto_failover's users are used to.
test_kill_5x3() { set_heartbeat 5s 3; drill kill 20000 15000; own_heartbeat; }
test_pause_5x3() { set_heartbeat 5s 3; drill pause 20000 15000; own_heartbeat; }
test_disconnect_5x3() { set_heartbeat 5s 3; drill disconnect 20000 15000; own_heartbeat; }

# Cut off, with a client on its own side that goes on trying: never two that acknowledge.
test_partition() {
    local old
    own_heartbeat
    await_settled
    old=$(primary_service)
    start_writers
    start_writer "$old" 120 127.0.0.1
    sleep 1
    docker exec "$old" /opt/pgaf/http-get 6010 /primary || fail "$old does not say that it is the primary"
    cut_service "$old"
    wait_for 30 is_primary_other_than "$(node_of "$old")" || fail "no new primary within 30 s"
    sleep 3
    ! docker exec "$old" /opt/pgaf/http-get 6010 /primary || fail "$old still says that it is the primary"
    mend_service "$old"
    wait_for 60 is_back_as_secondary "$old" || fail "$old has not come back"
    stop_writers "$old"
    # The client on its side and the one from outside are clients of the same node.
    sed -i "s/ 127\.0\.0\.1 / $old /" "$WORK/acks"
    detail "outage $(seconds_of_ms "$(outage_ms)") s"
    check_acks 2
}

# The keeper of the primary is killed inside its container: that ends the container, the restart
# policy brings it back, as the primary again or as a secondary.
test_keeper_death() {
    local old before began
    own_heartbeat
    await_settled
    old=$(primary_service)
    before=$(docker inspect -f '{{.RestartCount}}' "$old")
    start_writers
    docker exec "$old" bash -c 'kill -KILL $(cat /proc/[0-9]*/stat | sed -n "s/^\\([0-9]*\\) (vigil-keeper).*/\\1/p")'
    began=$(now_us)
    wait_for 30 was_restarted "$old" "$before" || fail "$old was not restarted"
    wait_for 60 is_settled || fail "$old has not come back: $(state_of "$old")"
    detail "back after $(seconds_of_ms "$(ms_since "$began")") s"
    stop_writers
    at_most outage "$(outage_ms)" 6000
    check_acks 2
}

was_restarted() { is_running "$1" && (($(docker inspect -f '{{.RestartCount}}' "$1") > $2)); } # NAME COUNT_BEFORE

# The data of a node is thrown away while it is down; it is copied from whoever is primary.
test_reseed() {
    local began service=postgres-primary
    await_settled
    if [[ $(primary_service) == "$service" ]]; then
        lab_pgctl perform-failover >/dev/null
        await_settled
    fi
    stop_service "$service"
    compose rm -f "$service" >/dev/null 2>&1
    docker volume rm "$service" >/dev/null
    began=$(now_us)
    compose up -d --no-build --no-deps "$service" >/dev/null 2>&1
    wait_for 120 is_back_as_secondary "$service" || fail "$service is not a secondary after 120 s: $(state_of "$service")"
    detail "a new copy of $(node_sql "$service" postgres 'select pg_size_pretty(sum(pg_database_size(datname))) from pg_database') streams after $(seconds_of_ms "$(ms_since "$began")") s"
    await_settled
    [[ $(count_rows "$service") == $(count_rows "$(primary_service)") ]] || fail "other rows than on the primary"
}

# Each node stopped and started again, the primary last; clients write all the time.
test_rolling_maintenance() {
    local old service
    own_heartbeat
    await_settled
    old=$(primary_service)
    start_writers 240
    for service in $(others_than "$old") "$old"; do
        stop_service "$service"
        start_service "$service"
        wait_for 60 is_back_as_secondary "$service" || fail "$service has not come back as a secondary within 60 s"
        await_settled
    done
    wait_for 2 has_acked "$(primary_service)" || fail "nobody could write on the last one within 2 s"
    stop_writers
    at_most "longest gap in the writes" "$(outage_ms)" 2000
    check_acks 2
}

# Transactions of two rows, by an application that asks for the URI once and tries again what failed.
test_application() {
    local old pairs halves acked writer rc=0
    own_heartbeat
    await_settled
    old=$(primary_service)
    client_sql "$(app_database)" 'create table if not exists lab_pairs (pair int, half int, primary key (pair, half)); truncate lab_pairs' >/dev/null
    docker exec -i -e PGPASSWORD="$(env_value POSTGRES_PASSWORD)" -e PGUSER=postgres -e PGCONNECT_TIMEOUT=2 -e PGHOST= -e PGPORT= pgaf-monitor \
        timeout 100 bash -s -- "$(read_write_uri | sed "s#/postgres?#/$(app_database)?#")" >"$WORK/pairs" <<'TEXT' &
rm -f /tmp/lab-writer.stop
pair=0
while [[ ! -e /tmp/lab-writer.stop ]]; do
    pair=$((pair + 1))
    # What was not acknowledged is tried again, as a pool does; it may have been done.
    until psql -XAtq -v ON_ERROR_STOP=1 -d "$1" -c "begin" -c "insert into lab_pairs values ($pair, 1) on conflict do nothing" \
        -c "insert into lab_pairs values ($pair, 2) on conflict do nothing" -c "commit" >/dev/null 2>&1; do
        [[ ! -e /tmp/lab-writer.stop ]] || exit 0
        echo "failed $pair"
        sleep 0.1
    done
    echo "done $pair"
done
TEXT
    writer=$!
    WRITERS=("$writer")
    wait_for 30 has_pairs 10 || fail "the application does not get on"
    kill_service "$old"
    wait_for 30 is_primary_other_than "$(node_of "$old")" || fail "no new primary within 30 s"
    acked=$(grep -c '^done' "$WORK/pairs")
    wait_for 30 has_pairs $((acked + 5)) || fail "the application does not get on after the failover"
    docker exec pgaf-monitor touch /tmp/lab-writer.stop
    wait "$writer" || rc=$?
    WRITERS=()
    ((rc == 0)) || fail "the application ended with exit code $rc"
    start_service "$old"
    await_settled
    acked=$(grep -c '^done' "$WORK/pairs")
    pairs=$(client_sql "$(app_database)" 'select count(*) from (select pair from lab_pairs group by pair having count(*) = 2) as whole')
    halves=$(client_sql "$(app_database)" 'select count(*) from (select pair from lab_pairs group by pair having count(*) <> 2) as halves')
    detail "$acked transactions acknowledged, $(grep -c '^failed' "$WORK/pairs" || true) tries failed, $halves halves"
    ((halves == 0)) || fail "$halves transactions are there by half"
    ((pairs >= acked)) || fail "$acked transactions were acknowledged, $pairs are there"
    client_sql "$(app_database)" 'drop table lab_pairs' >/dev/null
}

has_pairs() { (($(grep -c '^done' "$WORK/pairs") >= $1)); } # NUMBER

# Batches every second while the primary is killed: drops are counted, what is there is whole.
test_load_failover() {
    local old round made=0 dropped=0 batch there
    own_heartbeat
    await_settled
    old=$(primary_service)
    for round in {1..12}; do
        ((round != 4)) || kill_service "$old"
        if batch=$(appointments 50 'Load during failover' 2>/dev/null); then
            made=$((made + batch))
        else
            dropped=$((dropped + 1))
        fi
        sleep 1
    done
    start_service "$old"
    await_settled
    there=$(client_sql "$(app_database)" "select count(*) from appointments where chief_complaint = 'Load during failover'")
    detail "12 batches, $dropped dropped, $there rows there of $made acknowledged"
    ((there >= made && there % 50 == 0 && made >= 300)) || fail "$made rows were acknowledged, $there are there"
    client_sql "$(app_database)" "delete from appointments where chief_complaint = 'Load during failover'"
}

# As the guides measure it: looks ten times a second from the stop to the next primary; then a read
# on a replica and a write on the primary, timed by Postgres itself.
test_failover_time() {
    local old began replica read write
    own_heartbeat
    await_settled
    old=$(primary_service)
    began=$(now_us)
    docker stop -t 60 "$old" >/dev/null &
    until is_primary_other_than "$(node_of "$old")"; do
        (($(ms_since "$began") < 30000)) || fail "no new primary within 30 s"
        sleep 0.1
    done
    at_most "stop to the next primary" "$(ms_since "$began")" 15000
    wait
    start_service "$old"
    await_settled
    replica=$(one_other_than "$(primary_service)")
    read=$(node_sql "$replica" "$(app_database)" "explain (analyze, format json) select * from patients where last_name like 'S%'" | jq '.[0]."Execution Time"')
    write=$(client_sql "$(app_database)" "explain (analyze, format json) insert into audit_log (actor, action, context) values ('bench', 'write', '{}')" | jq '.[0]."Execution Time"')
    client_sql "$(app_database)" "delete from audit_log where actor = 'bench'"
    detail "read on a replica $read ms, write $write ms"
}

# --- recipes -----------------------------------------------------------------------------------------------------------------

# The monitor and its volume are lost: a new one learns from the nodes; clients notice nothing.
test_monitor_lost() {
    local primary began started
    await_settled
    primary=$(primary_service)
    started=$(server_start "$primary")
    client_sql "$(app_database)" 'set client_min_messages = warning' 'create table if not exists lab_writes (id text primary key, at timestamptz not null default clock_timestamp())' >/dev/null
    : >"$WORK/acks"
    # The clients run beside a replica: the monitor's container goes.
    local beside
    beside=$(one_other_than "$primary")
    start_writer "$beside" 120 "$primary"
    wait_for 20 has_acks 30 || fail "the writer could not begin"
    compose rm -sf pgaf-monitor >/dev/null 2>&1
    docker volume rm monitor_data >/dev/null
    began=$(now_us)
    compose up -d --no-build --no-deps pgaf-monitor >/dev/null 2>&1
    wait_for 90 is_settled || fail "the nodes have not registered again within 90 s"
    detail "three nodes registered $(seconds_of_ms "$(ms_since "$began")") s after the new monitor was started"
    [[ $(primary_service) == "$primary" ]] || fail "the primary changed"
    [[ $(server_start "$primary") == "$started" ]] || fail "Postgres of the primary was restarted"
    WRITERS_END=$EPOCHREALTIME
    docker exec "$beside" touch /tmp/lab-writer.stop
    wait_for 20 writers_are_gone || fail "the writer does not end"
    WRITERS=()
    at_most "longest gap in the writes" "$(outage_ms)" 1000
    check_acks 1
}

server_start() { node_sql "$1" postgres 'select pg_postmaster_start_time()'; }

# The first node's disk is lost, then the power of all, then the monitor's disk. The first node is the
# one that makes a cluster where there is none: it must not, beside two that have the data.
test_monitor_and_node_lost() {
    local counts service event
    await_settled
    if [[ $(primary_service) == postgres-primary ]]; then
        lab_pgctl perform-failover >/dev/null 2>&1
        await_settled
    fi
    counts=$(count_rows "$(primary_service)")
    event=$(last_event)
    kill_service postgres-primary
    # Before it was out of the sync rule nobody could know that it holds nothing of its own.
    wait_for 30 is_out_of_the_rule node1 "$event" || fail "node1 is still counted 30 s after it was killed"
    sleep 3 # so that the keepers hold that rule, and no older one
    for service in postgres-replica1 postgres-replica2 pgaf-monitor; do kill_service "$service"; done
    compose rm -f pgaf-monitor postgres-primary >/dev/null 2>&1
    docker volume rm monitor_data postgres-primary >/dev/null
    # The keepers with data come first, as README says.
    compose up -d --no-build --no-deps pgaf-monitor postgres-replica1 postgres-replica2 >/dev/null 2>&1
    for service in postgres-replica1 postgres-replica2; do
        wait_for 60 keeper_answers "$service" || fail "the keeper of $service does not answer"
    done
    compose up -d --no-build >/dev/null 2>&1
    # A monitor without a record waits for everybody whom an old rule names. Where it waits for the
    # node that is gone, an operator says that it is.
    if ! wait_for 45 is_settled && ! primary_node >/dev/null; then
        lab_pgctl perform-failover --allow-data-loss >/dev/null 2>&1 || fail "no failover without the node that is lost: $(lab_pgctl explain 2>&1)"
        detail "an operator had to go on without the lost node"
    fi
    await_settled 120
    detail "$(roles)"
    [[ $(primary_node) != node1 ]] || fail "node1 is the primary, with nothing in it"
    [[ $(count_rows "$(primary_service)") == "$counts" ]] || fail "the rows were $counts, they are $(count_rows "$(primary_service)")"
    wait_for 20 same_counts postgres-primary "$counts" || fail "node1 has other rows than the primary"
}

keeper_answers() { docker exec "$1" /opt/pgaf/http-get 6010 /liveness; }

last_event() { lab_pgctl --json show-events | jq '[.events[].eventid] | max // 0'; }

is_out_of_the_rule() { # NODE EVENT: a rule that is newer than this event does not name it
    lab_pgctl --json show-events | jq -e --arg node "$1" --argjson since "$2" \
        '[.events[] | select(.kind == "rule" and .eventid > $since)] | sort_by(.eventid) | last | . != null and (.description | contains($node) | not)' >/dev/null
}

# pg_dump on a standby, kept for 7 days; restored into a database beside it.
test_backup() {
    local node file rows
    await_settled
    node=$(one_other_than "$(primary_service)")
    docker exec "$node" bash -c 'mkdir -p /var/lib/postgresql/backups && touch -d "8 days ago" /var/lib/postgresql/backups/healthcare_db-old.dump && touch -d "6 days ago" /var/lib/postgresql/backups/healthcare_db-young.dump'
    file=$(docker exec "$node" /opt/pgaf/backup.sh) || fail "backup.sh"
    docker exec "$node" bash -c '[[ ! -e /var/lib/postgresql/backups/healthcare_db-old.dump && -e /var/lib/postgresql/backups/healthcare_db-young.dump ]]' ||
        fail "not what is older than 7 days was removed"
    client_sql postgres 'set client_min_messages = warning' 'drop database if exists lab_restored' 'create database lab_restored'
    docker exec "$node" cat "$file" | docker exec -i "$(primary_service)" pg_restore -U postgres -d lab_restored --no-owner --exit-on-error ||
        fail "the dump could not be restored"
    rows=$(client_sql lab_restored 'select count(*) from patients')
    [[ $rows == "$(patients)" ]] || fail "$rows patients restored, there are $(patients)"
    client_sql postgres 'drop database lab_restored'
    docker exec "$node" rm -f /var/lib/postgresql/backups/healthcare_db-young.dump "$file"
    detail "$rows patients restored from ${file##*/}"
}

# --- the lab itself --------------------------------------------------------------------------------------------------------------

roles() { show_state | jq -r '[.nodes[] | .nodename + "=" + .reportedstate] | sort | join(" ")'; }

# All nodes are asked to stop at once, and the one that led leads again.
test_down_and_up() {
    local before counts began
    await_settled
    # Not the one that would lead in a new cluster, nor the one with the highest priority.
    if [[ $(primary_node) != node2 ]]; then
        lab_pgctl perform-switchover --to node2 >/dev/null || fail "no switchover to node2"
        await_settled
    fi
    before=$(primary_node) counts=$(count_rows "$(primary_service)")
    local events late
    timeout 180 docker events --since "$EPOCHREALTIME" --filter event=kill --format '{{.TimeNano}} {{.Actor.Attributes.name}}' >"$WORK/asked" &
    events=$!
    WRITERS=("$events")
    compose down >/dev/null 2>&1
    wait_for 10 all_were_asked || fail "Docker does not tell when it asked the nodes to stop"
    kill "$events"
    WRITERS=()
    late=$(asked_late_ms "$(service_of "$before")")
    [[ -z $(container_state postgres-primary) ]] || fail "containers are left after down"
    began=$(now_us)
    compose up -d --no-build >/dev/null 2>&1 || fail "up failed"
    await_settled 120
    detail "up again after $(seconds_of_ms "$(ms_since "$began")") s: $(roles)"
    detail "the last standby was asked to stop $late ms after the primary"
    # Which keeps to itself for 500 ms, and rightly hands over where somebody stays longer.
    ((late > 350)) || [[ $(primary_node) == "$before" ]] || fail "$before was the primary, now it is: $(roles)"
    [[ $(count_rows "$(primary_service)") == "$counts" ]] || fail "the rows were $counts, they are $(count_rows "$(primary_service)")"
}

all_were_asked() { (($(grep -oE 'postgres-(primary|replica[12])$' "$WORK/asked" | sort -u | wc -l) == 3)); }

asked_late_ms() { # PRIMARY: from when it was asked to stop until the last of the others was
    awk -v primary="$1" '
        $2 ~ /^postgres-(primary|replica[12])$/ && !($2 in at) { at[$2] = $1 / 1e6 }
        END {
            for (name in at) if (at[name] > last) last = at[name]
            printf "%d", last - at[primary]
        }' "$WORK/asked"
}

# A container that comes back with another address: found by its name.
test_new_address() {
    local node began
    await_settled
    node=$(one_other_than "$(primary_service)")
    cut_service "$node"
    # Only once its loss was seen does its state tell anything about the time after.
    wait_for 30 is_lost "$node" || fail "nobody has noticed after 30 s that $node is cut off"
    mend_service "$node" 172.28.0.99
    began=$(now_us)
    wait_for 60 is_back_as_secondary "$node" || fail "$node at its new address is $(state_of "$node")"
    await_settled
    detail "streaming from 172.28.0.99 after $(seconds_of_ms "$(ms_since "$began")") s"
    # It takes part as before: also as the primary.
    lab_pgctl perform-switchover --to "$(node_of "$node")" >/dev/null || fail "no switchover to it"
    client_sql "$(app_database)" "insert into audit_log (actor, action) values ('test_user', 'new address')" || fail "no write after the switchover"
    client_sql "$(app_database)" "delete from audit_log where actor = 'test_user'"
    await_settled
    # Back to its own address, in the same way.
    lab_pgctl perform-failover >/dev/null || fail "no switchover away from it"
    await_settled
    cut_service "$node"
    wait_for 30 is_lost "$node" || fail "nobody has noticed after 30 s that $node is cut off"
    mend_service "$node"
    await_settled 90
}

is_lost() { # NAME: the monitor knows that it does not hear of it
    show_state | jq -e --arg n "$(node_of "$1")" '.nodes[] | select(.nodename == $n) | .health != 1' >/dev/null
}

# The monitor and the primary are lost for good: a standby alone takes the writes, by hand; then a
# new cluster is made around its data.
test_last_resort() {
    local primary node rows service
    await_settled
    primary=$(primary_service)
    node=$(one_other_than "$primary")
    compose stop pgaf-monitor "${SERVICES[@]}" >/dev/null 2>&1
    for service in "${SERVICES[@]}"; do is_stopped "$service" || fail "$service did not stop"; done
    compose rm -f "$node" >/dev/null 2>&1
    compose run -d --name last-resort --service-ports --no-deps "$node" /opt/pgaf/last-resort.sh >/dev/null 2>&1 ||
        fail "last-resort.sh could not be started"
    wait_for 30 takes_writes last-resort || fail "it does not take writes: $(docker logs --tail 5 last-resort 2>&1)"
    docker exec last-resort psql -XAtq -U postgres -d "$(app_database)" -c "insert into audit_log (actor, action) values ('test_user', 'last resort')"
    rows=$(docker exec last-resort psql -XAtq -U postgres -d "$(app_database)" -c "select count(*) from audit_log where actor = 'test_user'")
    # The way back: all but this node's data is thrown away, it is the first of a new cluster.
    docker stop -t 60 last-resort >/dev/null
    docker rm last-resort >/dev/null
    compose rm -f pgaf-monitor "${SERVICES[@]}" >/dev/null 2>&1
    # shellcheck disable=SC2046 # two names
    docker volume rm monitor_data $(others_than "$node") >/dev/null
    compose up -d --no-build --no-deps pgaf-monitor "$node" >/dev/null 2>&1
    wait_for 60 is_primary_node "$(node_of "$node")" || fail "$node is not the primary of a new cluster: $(state_of "$node")"
    compose up -d --no-build >/dev/null 2>&1
    await_settled 120
    [[ $(client_sql "$(app_database)" "select count(*) from audit_log where actor = 'test_user'") == "$rows" ]] || fail "what was written is gone"
    client_sql "$(app_database)" "delete from audit_log where actor = 'test_user'"
    detail "$(node_of "$node") alone took writes, then became the first of a new cluster"
}

takes_writes() { [[ $(docker exec "$1" psql -XAtq -U postgres -d postgres -c 'select not pg_is_in_recovery()' 2>/dev/null) == t ]]; }

is_primary_node() { [[ $(primary_node) == "$1" ]]; }
