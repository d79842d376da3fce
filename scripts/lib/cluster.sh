# Sourced by scripts/lab: the cluster as a whole. Needs LAB.

PASSWORD=postgres_password

lab_pgctl() { timeout 15 "$LAB/bin/pgctl" --monitor "$MONITOR_URL" --timeout 5s "$@"; }

node_states() { # a line `nodename nodeport reportedstate health` per node
    local json node field value line
    json=$(lab_pgctl --json show-state 2>/dev/null) || return 1
    json=${json//$'\n'/ }
    # Every node object begins with its nodeid; of what follows the first match is the node's own.
    while read -r node; do
        line=
        for field in nodename nodeport reportedstate health; do
            [[ $node =~ \"$field\":\ *\"?([A-Za-z0-9_.-]+) ]] || continue 2
            line+="${BASH_REMATCH[1]} "
        done
        printf '%s\n' "$line"
    done <<<"${json//\"nodeid\"/$'\n'}"
}

primary_name() { # the writable node; one that was lost may still be shown with its last state
    local name state health
    while read -r name _ state health; do
        case $state,$health in primary,1 | wait_primary,1 | single,1)
            printf '%s' "$name"
            return
            ;;
        esac
    done < <(node_states)
    return 1
}

is_healthy() { # 1 primary and 2 secondaries, all well
    local state health primaries=0 secondaries=0
    while read -r _ _ state health; do
        case $state,$health in
            primary,1) primaries=$((primaries + 1)) ;;
            secondary,1) secondaries=$((secondaries + 1)) ;;
        esac
    done < <(node_states)
    ((primaries == 1 && secondaries == 2))
}

node_sql() { # NAME SQL…: as superuser over TCP
    local name=$1 args=() sql
    shift
    for sql; do args+=(-c "$sql"); done
    PGPASSWORD=$PASSWORD PGCONNECT_TIMEOUT=3 timeout 30 "$(psql_path)" -XAtq -v ON_ERROR_STOP=1 \
        -h 127.0.0.1 -p "${PG_PORT[$name]}" -U postgres -d postgres "${args[@]}"
}

# --- up ---------------------------------------------------------------------------------------------

is_serving() { [[ $(http_status "${HTTP_PORT[$1]}" "$2") == 200 ]]; } # NAME PATH

is_gone_or_serving() { ! daemon_pid "$1" >/dev/null || is_serving "$1" "$2"; }

await_serving() { # SECONDS NAME PATH
    wait_for "$1" is_gone_or_serving "$2" "$3" || true
    is_serving "$2" "$3" ||
        fail_up "$2 is not ready: $3 on port ${HTTP_PORT[$2]} does not answer 200"
}

start_cluster() {
    local name
    if start_daemon monitor; then say "monitor started"; fi
    await_serving 90 monitor /healthz
    # node1 makes a new cluster; one that was there before comes up in any order.
    if ! compgen -G "$LAB/node?/pgdata/PG_VERSION" >/dev/null; then
        start_daemon node1 && say "node1 started"
        await_serving 90 node1 /primary
        set_password node1
    fi
    for name in "${NODES[@]}"; do
        if start_daemon "$name"; then say "$name started"; fi
    done
    wait_for 120 is_healthy || fail_up "not 1 primary and 2 secondaries after 120 s"
    set_password "$(primary_name)"
}

set_password() { # NAME: over the socket, where the user who runs Postgres needs none
    ! node_sql "$1" 'select 1' >/dev/null 2>&1 || return 0
    (as_postgres PGCONNECT_TIMEOUT=5 "$(psql_path)" -XAtq -h "$LAB/run" -p "${PG_PORT[$1]}" -U postgres -d postgres \
        -c "set password_encryption = 'scram-sha-256'" -c "alter role postgres password '$PASSWORD'") >/dev/null ||
        fail_up "the password of postgres could not be set on $1"
}

fail_up() { # MESSAGE: with what helps to see why
    local name
    lab_pgctl show-state >&2 || true
    lab_pgctl explain >&2 || true
    for name in "${NAMES[@]}"; do
        say "--- last lines of $name"
        tail -n 15 "$LAB/logs/$name.log" >&2 2>/dev/null || true
    done
    die 1 "$1" "scripts/lab logs, scripts/lab status; scripts/lab reset begins anew"
}

show_cluster() {
    lab_pgctl show-state
    echo
    lab_pgctl show-uri
    cat <<TEXT

Everything is in $LAB. What to try:
  eval "\$(scripts/lab env)"          then pgctl show-state, pgctl perform-switchover
  scripts/lab demo                   kills the primary under load, shows the outage
  scripts/lab kill node1             power loss of a node; scripts/lab start node1 brings it back
  scripts/lab psql                   SQL on the present primary
  scripts/lab down | reset           stop | stop and remove the data
TEXT
}

# --- down -------------------------------------------------------------------------------------------

ask_to_stop() { # NAME WHAT: politely
    local pid
    if [[ $2 != postgres ]] && pid=$(daemon_pid "$1"); then
        signal TERM "$pid"
    elif [[ $2 != keeper ]] && pid=$(postmaster_pid "$1"); then
        signal INT "$pid" # fast shutdown
    else
        # What neither a keeper nor a postmaster looks after any more.
        # shellcheck disable=SC2046 # a list of pids
        signal TERM $(pids_of "$1" "$2")
    fi
}

stop_all() { # NAME…: at the same time; what does not stop in a minute is killed
    local name pids
    for name; do
        pids=$(pids_of "$name" all)
        [[ $pids ]] || continue
        ask_to_stop "$name" all
        # shellcheck disable=SC2086 # a list of pids; some may be frozen
        signal CONT $pids
    done
    for name; do
        wait_for 60 is_down "$name" && continue
        say "$name did not stop in 60 s: killed"
        kill_all "$name" all || true
    done
}

stop_cluster() { # the standbys first: a primary would hand over to them, one after the other
    local primary name standbys=()
    primary=$(primary_name) || primary=node1
    for name in "${NODES[@]}"; do [[ $name == "$primary" ]] || standbys+=("$name"); done
    stop_all "${standbys[@]}"
    stop_all "$primary"
    stop_all monitor
    rm -f "$LAB"/pids/*
}

# --- status -----------------------------------------------------------------------------------------

process_state() { # PID: running, frozen or stopped
    if [[ -z $1 ]]; then
        printf stopped
    elif is_frozen "$1"; then
        printf frozen
    else
        printf running
    fi
}

status_report() {
    local name daemon server rows=() healthy=false
    for name in "${NAMES[@]}"; do
        daemon=$(daemon_pid "$name") || daemon=
        server=$(postmaster_pid "$name") || server=
        if [[ $JSON ]]; then
            rows+=("$(printf '{"name":"%s","keeper":{"state":"%s","pid":%s},"postgres":{"state":"%s","pid":%s,"port":%d},"http_port":%d}' \
                "$name" "$(process_state "$daemon")" "${daemon:-null}" \
                "$(process_state "$server")" "${server:-null}" "${PG_PORT[$name]}" "${HTTP_PORT[$name]}")")
        else
            rows+=("$(printf '%-8s  %-16s  %-16s  %d' "$name" "$(process_state "$daemon") $daemon" \
                "$(process_state "$server") $server" "${PG_PORT[$name]}")")
        fi
    done
    if [[ $JSON ]]; then
        ! is_healthy || healthy=true
        local IFS=,
        printf '{"lab_dir":"%s","healthy":%s,"processes":[%s]}\n' "$LAB" "$healthy" "${rows[*]}"
        return
    fi
    printf '%-8s  %-16s  %-16s  %s\n' name keeper Postgres port
    printf '%s\n' "${rows[@]}"
    if daemon_pid monitor >/dev/null; then
        echo
        lab_pgctl show-state || true
    fi
}
