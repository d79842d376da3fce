# Sourced by scripts/lab: writes, kills the primary, counts.

WRITERS=2

demo_writer() { # NUMBER: one row after the other until DEMO/stop is there
    # An id is acknowledged when its command tag comes back and no warning came before it: a line
    # `id microseconds` in DEMO/acked.NUMBER. All else is unknown; the id is not used again.
    local base=$(($1 * 1000000000)) n=0 pipe=$DEMO/pipe.$1 line warned pid in out acked psql
    local host=127.0.0.1,127.0.0.1,127.0.0.1
    local uri="postgresql:///postgres?host=$host&port=5432,5433,5434&user=postgres"
    uri+='&target_session_attrs=read-write&connect_timeout=2&application_name=lab-demo'
    psql=$(psql_path)
    exec {acked}>>"$DEMO/acked.$1"
    while [[ ! -e $DEMO/stop ]]; do
        rm -f "$pipe".*
        mkfifo "$pipe.in" "$pipe.out"
        PGPASSWORD=$PASSWORD "$psql" "$uri" -XAt -v ON_ERROR_STOP=1 <"$pipe.in" >"$pipe.out" 2>&1 &
        pid=$!
        exec {in}<>"$pipe.in" {out}<"$pipe.out"
        while [[ ! -e $DEMO/stop ]]; do
            n=$((n + 1)) warned=
            printf 'INSERT INTO pgvigil_demo VALUES (%d);\n' $((base + n)) >&"$in"
            while :; do
                # No answer for 3 s, an error (psql then ends), a broken connection: the next node.
                read -r -t 3 -u "$out" line || break 2
                case $line in
                    'INSERT 0 1') break ;;
                    *WARNING:*) warned=1 ;;
                esac
            done
            [[ $warned ]] || printf '%d %s\n' $((base + n)) "${EPOCHREALTIME/./}" >&"$acked"
        done
        exec {in}>&- {out}<&-
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
        sleep 0.02
    done
}

acked_more() { # COUNT: every writer got so many more acknowledged than demo_mark saw
    local w now
    for ((w = 1; w <= WRITERS; w++)); do
        now=$(wc -l <"$DEMO/acked.$w")
        ((now >= ${DEMO_MARK[w]:-0} + $1)) || return 1
    done
}

demo_mark() {
    local w
    for ((w = 1; w <= WRITERS; w++)); do DEMO_MARK[w]=$(wc -l <"$DEMO/acked.$w"); done
}

has_other_primary() { # NAME
    local now
    now=$(primary_name) && [[ $now != "$1" ]]
}

demo_cleanup() {
    touch "$DEMO/stop"
    wait "${DEMO_PIDS[@]}" || true # they see the file
    rm -rf "$DEMO"
}

longest_gap_ms() { # SINCE_US: between two acknowledgements, of whichever writer
    sort -n -k2,2 "$DEMO"/acked.* | awk -v since="$1" '
        NR > 1 && $2 > since && $2 - last > gap { gap = $2 - last }
        { last = $2 }
        END { printf "%d", gap / 1000 + 0.5 }'
}

find_missing() { # NAME: writes the acknowledged ids that are not there to DEMO/missing.NAME
    node_sql "$1" 'copy (select id from pgvigil_demo) to stdout' 2>/dev/null >"$DEMO/there" &&
        comm -23 "$DEMO/ids" <(sort "$DEMO/there") >"$DEMO/missing.$1"
}

has_all() { find_missing "$1" && [[ ! -s $DEMO/missing.$1 ]]; }

demo() {
    local victim primary w killed_at outage acked lost name started
    DEMO_MARK=() DEMO_PIDS=()
    is_healthy || die 5 "the lab is not 1 primary and 2 secondaries" "scripts/lab up"
    victim=$(primary_name)
    DEMO=$(mktemp -d)
    trap demo_cleanup EXIT
    node_sql "$victim" 'drop table if exists pgvigil_demo' \
        'create table pgvigil_demo (id bigint primary key, at timestamptz not null default now())' 2>/dev/null ||
        die 1 "cannot create a table on $victim"
    for ((w = 1; w <= WRITERS; w++)); do
        : >"$DEMO/acked.$w"
        (trap - EXIT && set +e && demo_writer "$w") </dev/null &
        DEMO_PIDS+=($!)
    done
    say "$WRITERS writers insert rows; $victim is the primary"
    wait_for 20 acked_more 50 || die 1 "the writers do not get on" "scripts/lab logs $victim"

    killed_at=$(now_us)
    kill_all "$victim" all || true
    say "$victim killed: its keeper and Postgres, SIGKILL"
    wait_for 90 has_other_primary "$victim" || die 1 "no other node took over in 90 s" "pgctl explain"
    primary=$(primary_name)
    demo_mark
    wait_for 60 acked_more 50 || die 1 "$primary is the primary, but the writers do not get on" "scripts/lab logs $primary"
    say "$primary took over, the writers go on"

    started=$(now_us)
    start_daemon "$victim" || true
    wait_for 120 is_healthy || die 1 "$victim was started, but the lab is not well again after 120 s" "pgctl explain"
    say "$victim started again: a secondary after $((($(now_us) - started) / 1000)) ms"
    touch "$DEMO/stop"
    wait "${DEMO_PIDS[@]}" || true

    cut -d' ' -f1 "$DEMO"/acked.* | sort >"$DEMO/ids"
    acked=$(wc -l <"$DEMO/ids")
    outage=$(longest_gap_ms "$((killed_at - 1000000))")
    for name in "${NODES[@]}"; do
        wait_for 30 has_all "$name" || true # a standby may still be replaying
        find_missing "$name" || die 1 "$name does not answer, so it is not known what it holds"
        [[ ! -s $DEMO/missing.$name ]] || say "$name lacks $(wc -l <"$DEMO/missing.$name") acknowledged commits"
    done
    lost=$(sort -u "$DEMO"/missing.* | wc -l)
    ((lost > 0)) || node_sql "$primary" 'drop table pgvigil_demo' || true
    if [[ $JSON ]]; then
        printf '{"outage_ms":%d,"acked":%d,"lost":%d,"killed":"%s","primary":"%s"}\n' \
            "$outage" "$acked" "$lost" "$victim" "$primary"
    else
        printf 'outage %d ms, %d commits acknowledged, %d lost (looked for on node1, node2 and node3)\n' \
            "$outage" "$acked" "$lost"
    fi
    ((lost == 0))
}
