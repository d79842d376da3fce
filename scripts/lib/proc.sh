# Sourced by scripts/lab: the lab's processes. Needs LAB, the lab's folder.
#
# What belongs to the lab is known by three things, and nothing else is ever signalled: the pid and
# start time that were written down when a daemon was started; the variable PGVIGIL_LAB_NODE that
# all its children inherit; and being a `postgres` whose data directory is in the node's folder.

NODES=(node1 node2 node3)
NAMES=(monitor "${NODES[@]}")
declare -A PG_PORT=([monitor]=5431 [node1]=5432 [node2]=5433 [node3]=5434)
declare -A HTTP_PORT=([monitor]=6001 [node1]=6010 [node2]=6011 [node3]=6012)
declare -A PRIORITY=([node1]=100 [node2]=90 [node3]=80)
GRPC_PORT=6000
MONITOR_URL=http://127.0.0.1:$GRPC_PORT

ports_of() { # NAME
    [[ $1 != monitor ]] || printf '%s ' "$GRPC_PORT"
    printf '%s ' "${HTTP_PORT[$1]}" "${PG_PORT[$1]}"
}

# --- one process -----------------------------------------------------------------------------

proc_stat() { # PID: its state and start time (fields 3 and 22 of /proc/PID/stat)
    local stat fields
    { stat=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
    read -ra fields <<<"${stat##*) }" # the command, field 2, may hold anything
    printf '%s %s' "${fields[0]}" "${fields[19]}"
}

is_alive() { # PID [START]: that very process, and not a zombie
    local state start
    read -r state start < <(proc_stat "$1") || [[ ${start-} ]] || return 1
    [[ $state != [ZX] && ${2:-$start} == "$start" ]]
}

is_frozen() { [[ $(proc_stat "$1") == T* ]]; }

# --- the processes of one node or of the monitor ------------------------------------------------

daemon_pid() { # NAME: the keeper or monitor that the lab started, while it lives
    local pid start
    read -r pid start 2>/dev/null <"$LAB/pids/$1" || return 1
    is_alive "$pid" "$start" && printf '%s' "$pid"
}

server_pids() { # NAME: every process of its Postgres
    local link pid comm
    while read -r link; do
        pid=${link#/proc/} pid=${pid%/cwd} comm=
        # Not a shell whose user went to look at the data directory.
        { read -r comm <"/proc/$pid/comm"; } 2>/dev/null || true
        [[ $comm != postgres ]] || printf '%s\n' "$pid"
    done < <(find /proc/[0-9]* -maxdepth 1 -name cwd \
        \( -lname "$LAB/$1" -o -lname "$LAB/$1/*" \) 2>/dev/null)
}

family_pids() { # NAME: the daemon and all that it started
    grep -lzFx -- "PGVIGIL_LAB_NODE=$LAB/$1" /proc/[0-9]*/environ 2>/dev/null |
        while IFS=/ read -r _ _ pid _; do is_alive "$pid" && printf '%s\n' "$pid"; done
}

pids_of() { # NAME keeper|postgres|all
    case $2 in
        keeper) daemon_pid "$1" && echo ;;
        postgres) server_pids "$1" ;;
        all) { family_pids "$1"; server_pids "$1"; } | sort -un ;;
    esac || true
}

postmaster_pid() { # NAME
    local file pid
    # The monitor chooses the folder of its own data directory.
    for file in "$LAB/$1"/postmaster.pid "$LAB/$1"/*/postmaster.pid; do
        read -r pid 2>/dev/null <"$file" || continue
        if grep -qx -- "$pid" < <(server_pids "$1"); then
            printf '%s' "$pid"
            return
        fi
    done
    return 1
}

is_down() { # NAME [keeper|postgres|all]
    [[ -z $(pids_of "$1" "${2-all}") ]]
}

# --- signals ------------------------------------------------------------------------------------

signal() { # SIGNAL PID…: those that are gone by now do not matter
    local sig=$1
    shift
    (($# == 0)) || kill -s "$sig" -- "$@" 2>/dev/null || true
}

freeze_all() { # NAME WHAT: stops the set, until nobody new turns up; prints it
    local pids again
    pids=$(pids_of "$1" "$2")
    while [[ $pids ]]; do
        # shellcheck disable=SC2086 # a list of pids
        signal STOP $pids
        again=$(pids_of "$1" "$2")
        [[ $again != "$pids" ]] || break
        pids=$again
    done
    printf '%s' "$pids"
}

all_gone() { # PID…
    local pid
    for pid; do ! is_alive "$pid" || return 1; done
}

kill_all() { # NAME WHAT: SIGKILL to the whole set at one moment; fails when there was nobody
    local pids
    pids=$(freeze_all "$1" "$2")
    [[ $pids ]] || return 1
    while [[ $pids ]]; do
        # shellcheck disable=SC2086
        signal KILL $pids
        # shellcheck disable=SC2086
        wait_for 20 all_gone $pids || die 1 "$1: SIGKILL sent to ${pids//$'\n'/ }, still there after 20 s"
        # A keeper that lives may start Postgres again: that is its right.
        pids=
        [[ $2 != all ]] || pids=$(freeze_all "$1" all)
    done
}

# --- ports --------------------------------------------------------------------------------------

port_inode() { # PORT: the socket that listens there on an address that meets 127.0.0.1
    local hex address state inode
    printf -v hex ':%04X' "$1"
    while read -r _ address _ state _ _ _ _ _ inode _; do
        [[ $state == 0A && $address == *"$hex" ]] || continue
        case ${address%:*} in
            0100007F | 00000000 | 00000000000000000000000000000000 | 0000000000000000FFFF00000100007F)
                printf '%s' "$inode"
                return
                ;;
        esac
    done < <(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null)
    return 1
}

check_ports() { # NAME: each port is free, or held by what the lab left running there
    local port inode pid ours holder
    ours=$(pids_of "$1" all)
    for port in $(ports_of "$1"); do
        inode=$(port_inode "$port") || continue
        pid=$(find /proc/[0-9]*/fd -maxdepth 1 -lname "socket:\[$inode\]" -print -quit 2>/dev/null || true)
        pid=${pid#/proc/} pid=${pid%%/*}
        [[ -z $pid ]] || ! grep -qx -- "$pid" <<<"$ours" || continue
        holder="a process of another user"
        [[ -z $pid ]] || holder="pid $pid ($(cat "/proc/$pid/comm" 2>/dev/null))"
        die 8 "port $port is busy: $holder" \
            "stop it; the lab needs 5431-5434, 6000, 6001 and 6010-6012"
    done
}

http_status() { # PORT PATH: prints the status code
    local fd code
    {
        exec {fd}<>"/dev/tcp/127.0.0.1/$1" || return 1
        printf 'GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n' "$2" >&"$fd"
        read -r -t 2 -u "$fd" _ code _ || true
        exec {fd}>&-
    } 2>/dev/null
    [[ ${code-} ]] && printf '%s' "$code"
}

# --- starting -----------------------------------------------------------------------------------

as_postgres() { # COMMAND…: as the user that runs the servers, with a clean environment
    local user=() env=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8) name
    ((EUID != 0)) || user=(setpriv --reuid=postgres --regid=postgres --init-groups)
    env+=("HOME=$LAB/run")
    # What a user may want to set for the daemons.
    for name in PGVIGIL_PG_BIN PGVIGIL_LOG_LEVEL PGVIGIL_LOG_FORMAT PGVIGIL_HEARTBEAT_INTERVAL \
        PGVIGIL_HEARTBEAT_MISSES PGVIGIL_NUMBER_SYNC_STANDBYS PG_AUTOCTL_HEARTBEAT PG_AUTOCTL_TIMEOUT; do
        [[ -z ${!name-} ]] || env+=("$name=${!name}")
    done
    cd / && exec "${user[@]}" env -i "${env[@]}" "$@"
}

daemon_command() { # NAME: fills the array COMMAND
    local pg=(--pg-port "${PG_PORT[$1]}" --pg-listen 127.0.0.1 --pg-socket-dir "$LAB/run")
    if [[ $1 == monitor ]]; then
        COMMAND=("$LAB/bin/vigil-monitor" --data-dir "$LAB/monitor" "${pg[@]}"
            --listen "127.0.0.1:$GRPC_PORT" --http-listen "127.0.0.1:${HTTP_PORT[$1]}" --insecure)
    else
        COMMAND=("$LAB/bin/vigil-keeper" --name "$1" --pgdata "$LAB/$1/pgdata"
            "${pg[@]}" --host 127.0.0.1 --http-listen "127.0.0.1:${HTTP_PORT[$1]}" --monitor "$MONITOR_URL"
            --candidate-priority "${PRIORITY[$1]}" --pg-hba-cidr 127.0.0.1/32 --insecure)
    fi
}

start_daemon() { # NAME: fails when it runs already; Postgres that is there is the keeper's to adopt
    local name=$1 pid stat COMMAND
    ! daemon_pid "$name" >/dev/null || return 1
    check_ports "$name"
    daemon_command "$name"
    # A session of its own; not this shell's lock.
    (as_postgres setsid env "PGVIGIL_LAB_NODE=$LAB/$name" "${COMMAND[@]}") \
        </dev/null >>"$LAB/logs/$name.log" 2>&1 9>&- &
    pid=$!
    stat=$(proc_stat "$pid") || die 1 "$name: could not be started" "scripts/lab logs $name"
    printf '%s %s\n' "$pid" "${stat#* }" >"$LAB/pids/$name"
    wait_for 30 is_up_or_gone "$name" || say "$name: started, but does not answer on port ${HTTP_PORT[$name]} yet"
    daemon_pid "$name" >/dev/null || die 1 "$name stopped again: $(last_error "$name")" "scripts/lab logs $name"
}

is_up_or_gone() { # NAME
    ! daemon_pid "$1" >/dev/null || http_status "${HTTP_PORT[$1]}" /liveness >/dev/null
}

last_error() { # NAME: the last `error:` line of its log, else the last line
    local log=$LAB/logs/$1.log
    { grep -E '^error: ' "$log" || cat "$log"; } 2>/dev/null | tail -n 1 | sed 's/^error: //'
}
