# Sourced by the scripts of the compose lab: services, nodes, SQL, faults. Needs ROOT and common.sh.
# Nodes and services may be named either way: node1 is postgres-primary.

SERVICES=(postgres-primary postgres-replica1 postgres-replica2)
NETWORK=postgres-cluster
# Names that the compose file fixes, whoever started it.
# shellcheck disable=SC2034 # for those who source this
CONTAINERS=(pgaf-monitor "${SERVICES[@]}" postgres-exporter prometheus alertmanager grafana)
# shellcheck disable=SC2034
VOLUMES=(monitor_data "${SERVICES[@]}" prometheus_data alertmanager_data grafana_data)

# --- docker compose ------------------------------------------------------------------------------------

compose_command() { # sets COMPOSE
    if docker compose version >/dev/null 2>&1; then
        COMPOSE=(docker compose)
    elif type -P docker-compose >/dev/null; then
        COMPOSE=(docker-compose)
    else
        die 8 "neither \`docker compose\` nor docker-compose is installed" "apt-get install docker-compose-plugin, or docker/offline-images --tools on Debian"
    fi
}

compose_name() { # what people type here: docker compose, or docker-compose where only that is installed
    [[ ${COMPOSE-} ]] || compose_command
    printf '%s' "${COMPOSE[*]}"
}

env_file() { # the .env file in use: PGVIGIL_ENV_FILE, else .env, else .env.test
    local file=${PGVIGIL_ENV_FILE-}
    if [[ -z $file ]]; then
        file=$ROOT/.env
        [[ -e $file ]] || file=$ROOT/.env.test
    fi
    [[ -r $file ]] || die 2 "no .env file $file" "cp .env.test .env, or set PGVIGIL_ENV_FILE"
    printf '%s' "$file"
}

env_value() { # VARIABLE [DEFAULT]: as compose sees it: the environment first, then the .env file
    local name=$1 value
    if [[ ${!name+set} ]]; then
        printf '%s' "${!name}"
        return
    fi
    value=$(sed -n "s/^$name=//p" "$(env_file)" | tail -n 1 | tr -d '\r' | sed "s/^\"\(.*\)\"\$/\1/; s/^'\(.*\)'\$/\1/")
    printf '%s' "${value:-${2-}}"
}

is_offline() { # whether docker/offline-images made the images: then there is no Grafana
    local image
    image=$(env_value PROMETHEUS_IMAGE prom/prometheus)
    [[ $(docker image inspect -f '{{index .Config.Labels "pgvigil.stand-in"}}' "$image" 2>/dev/null) == true ]]
}

compose() { # ARGS…: with the files and the .env file of the lab
    local files=(-f "$ROOT/docker/docker-compose.yml")
    [[ ${COMPOSE-} ]] || compose_command
    if is_offline; then files+=(-f "$ROOT/docker/offline.yml"); fi
    (
        # They would win over the options above.
        unset COMPOSE_FILE COMPOSE_PROFILES
        "${COMPOSE[@]}" --project-name "$(env_value COMPOSE_PROJECT_NAME pgvigil)" --env-file "$(env_file)" "${files[@]}" "$@"
    )
}

# --- names -------------------------------------------------------------------------------------------------

service_of() { # NAME of a node or a service: the service
    case $1 in
        node1 | postgres-primary) printf postgres-primary ;;
        node2 | postgres-replica1) printf postgres-replica1 ;;
        node3 | postgres-replica2) printf postgres-replica2 ;;
        monitor | pgaf-monitor) printf pgaf-monitor ;;
        *) die 4 "no such node: $1" "node1, node2, node3 or monitor; or postgres-primary, postgres-replica1, postgres-replica2, pgaf-monitor" ;;
    esac
}

node_of() { # NAME: the node
    case $(service_of "$1") in
        postgres-primary) printf node1 ;;
        postgres-replica1) printf node2 ;;
        postgres-replica2) printf node3 ;;
        *) printf monitor ;;
    esac
}

port_of() { # NAME: the port on this machine
    case $(service_of "$1") in
        postgres-primary) printf 5432 ;;
        postgres-replica1) printf 5433 ;;
        postgres-replica2) printf 5434 ;;
        *) printf 5431 ;;
    esac
}

address_of() { # NAME: the address that the compose file gives it
    case $(service_of "$1") in
        postgres-primary) printf 172.28.0.10 ;;
        postgres-replica1) printf 172.28.0.11 ;;
        postgres-replica2) printf 172.28.0.12 ;;
        *) printf 172.28.0.5 ;;
    esac
}

others_than() { # NAME: the other two services
    local service mine
    mine=$(service_of "$1")
    for service in "${SERVICES[@]}"; do [[ $service == "$mine" ]] || printf '%s\n' "$service"; done
}

one_other_than() { # NAME: the first of them; not `| head`, which would end the writer of the second
    local names
    mapfile -t names < <(others_than "$1")
    printf '%s' "${names[0]}"
}

# --- containers ----------------------------------------------------------------------------------------------

container_state() { # NAME: running, paused, exited, …; nothing when it is not there
    docker inspect -f '{{.State.Status}}' "$1" 2>/dev/null || true
}

is_running() { [[ $(container_state "$1") == running ]]; }

is_stopped() { [[ $(container_state "$1") == exited ]]; }

container_health() { # NAME: healthy, unhealthy, starting, or none where there is no check
    docker inspect -f '{{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}' "$1" 2>/dev/null || true
}

all_healthy() { # that each container of the lab runs and is healthy
    local service
    for service in $(compose config --services 2>/dev/null); do
        [[ $service != pgctl ]] || continue
        if [[ $service == grafana ]] && is_offline; then continue; fi
        is_running "$service" || return 1
        [[ $(container_health "$service") == healthy ]] || return 1
    done
}

not_healthy() { # the containers that are not, each with its state
    local service
    for service in $(compose config --services 2>/dev/null); do
        [[ $service != pgctl ]] || continue
        if [[ $service == grafana ]] && is_offline; then continue; fi
        [[ $(container_health "$service") == healthy ]] ||
            printf '%s (%s, %s) ' "$service" "$(container_state "$service")" "$(container_health "$service")"
    done
}

# Whoever stops a container looks if it has stopped: a wrong name must not make a test that passes.
stop_service() { # NAME
    local service
    service=$(service_of "$1")
    is_running "$service" || die 5 "$service is not running (${service:+$(container_state "$service")})" "$(compose_name) ps"
    docker stop -t 60 "$service" >/dev/null
    wait_for 5 is_stopped "$service" || die 1 "$service was told to stop, it is $(container_state "$service")"
}

kill_service() { # NAME: SIGKILL to all of it, as if its power went; it stays down
    local service
    service=$(service_of "$1")
    is_running "$service" || die 5 "$service is not running" "$(compose_name) ps"
    docker kill "$service" >/dev/null
    wait_for 5 is_stopped "$service" || die 1 "$service was killed, it is $(container_state "$service")"
}

start_service() { # NAME
    local service
    service=$(service_of "$1")
    docker start "$service" >/dev/null
    wait_for 5 is_running "$service" || die 1 "$service was started, it is $(container_state "$service")"
}

cut_service() { # NAME: off the network
    docker network disconnect "$NETWORK" "$(service_of "$1")"
}

mend_service() { # NAME [ADDRESS]: back with its address; without one Docker would give it any
    local service
    service=$(service_of "$1")
    docker network connect --ip "${2:-$(address_of "$1")}" --alias "$service" "$NETWORK" "$service"
}

# --- the cluster -------------------------------------------------------------------------------------------------

lab_pgctl() { # ARGS…: in the monitor's container
    timeout 90 docker exec pgaf-monitor pgctl "$@"
}

show_state() { timeout 15 docker exec pgaf-monitor pgctl --timeout 5s --json show-state 2>/dev/null; }

need_jq() { type -P jq >/dev/null || die 8 "jq is not installed" "apt-get install jq"; }

primary_node() { # the name of the node that is writable
    local name
    name=$(show_state | jq -r '[.nodes[] | select((.reportedstate == "primary" or .reportedstate == "wait_primary" or .reportedstate == "single") and .health == 1)] | if length == 1 then .[0].nodename else "" end') || return 1
    [[ $name ]] && printf '%s' "$name"
}

primary_service() {
    local name
    name=$(primary_node) && service_of "$name"
}

state_of() { # NAME: reportedstate
    show_state | jq -r --arg n "$(node_of "$1")" '.nodes[] | select(.nodename == $n) | .reportedstate'
}

is_state() { [[ $(state_of "$1") == "$2" ]]; } # NAME STATE

is_settled() { # 1 primary and 2 secondaries that its sync rule counts, nothing on its way
    show_state | jq -e '([.nodes[] | select(.reportedstate == "primary" and .health == 1)] | length == 1)
        and ([.nodes[] | select(.reportedstate == "secondary" and .health == 1 and .sync == "quorum")] | length == 2)
        and (.nodes | length == 3) and (.waiting_on | length == 0)' >/dev/null
}

is_primary_other_than() { # NODE
    local now
    now=$(primary_node) && [[ $now != "$1" ]]
}

await_settled() { # [SECONDS]
    wait_for "${1:-60}" is_settled || {
        lab_pgctl show-state >&2 || true
        lab_pgctl explain >&2 || true
        fail "not 1 primary and 2 secondaries after ${1:-60} s"
    }
}

fail() { # MESSAGE: the end of a check
    say "failed: $1"
    exit 1
}

# psql in the node's own container, as its clients come: over TCP, with the password.
node_sql() { # NAME DATABASE SQL…
    local service=$1 database=$2 args=() sql
    service=$(service_of "$service")
    shift 2
    for sql; do args+=(-c "$sql"); done
    timeout 60 docker exec -e PGPASSWORD="$(env_value POSTGRES_PASSWORD)" -e PGCONNECT_TIMEOUT=3 "$service" \
        psql -XAtq -v ON_ERROR_STOP=1 -h 127.0.0.1 -p 5432 -U postgres -d "$database" "${args[@]}"
}

app_database() { env_value POSTGRES_DB healthcare_db; }

# What a client does after a failover until there is routing: it asks for the URI and lets libpq
# find the primary among its hosts.
read_write_uri() {
    lab_pgctl --json show-uri | jq -r '.uris[] | select(.type == "read-write") | .uri' | head -n 1
}

client_sql() { # DATABASE SQL…: at whichever node is writable, by that URI, from the monitor's container
    local database=$1 uri args=() sql
    shift
    uri=$(read_write_uri)
    [[ $uri ]] || return 1
    uri=${uri/\/postgres\?/\/$database?}
    for sql; do args+=(-c "$sql"); done
    # The URI names hosts, ports and what is wanted of them; who connects is told by variables.
    timeout 60 docker exec -e PGPASSWORD="$(env_value POSTGRES_PASSWORD)" -e PGUSER=postgres \
        -e PGCONNECT_TIMEOUT=2 -e PGHOST= -e PGPORT= pgaf-monitor psql -XAtq -v ON_ERROR_STOP=1 -d "$uri" "${args[@]}"
}
