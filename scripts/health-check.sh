#!/usr/bin/env bash
# Whether this machine can run the compose lab. Bash 3.2 and up: Linux, macOS, Git Bash, WSL.
#
#   scripts/health-check.sh             all checks, with the minimums
#   scripts/health-check.sh --quiet     warnings and errors only
#
# Environment: PGVIGIL_ENV_FILE (.env, else .env.test).
# Exit codes: 0 it can (warnings aside), 1 it cannot: each reason is a line `error: …` with a hint.
set -u

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
QUIET=''
ERRORS=0

# What the lab needs, and what is comfortable (the metrics of weeks, big test data).
MIN_DOCKER=20.10 MIN_COMPOSE=1.29 GOOD_COMPOSE=2.0
MIN_MEMORY_GB=2 GOOD_MEMORY_GB=8 MIN_DISK_GB=5 GOOD_DISK_GB=60 GOOD_CPUS=4
PORTS='5431 5432 5433 5434 6000 6001 6010 6011 6012 9187 9090 9093 3000'
CONTAINERS='pgaf-monitor postgres-primary postgres-replica1 postgres-replica2 postgres-exporter prometheus alertmanager grafana'
SUBNET=172.28.0

ok() { [ "$QUIET" ] || printf 'ok       %s\n' "$1"; }
warn() { printf 'warning  %s\n' "$1" >&2; }
bad() { # WHAT HINT
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    ERRORS=$((ERRORS + 1))
}

at_least() { # VERSION MINIMUM: compares the first two numbers
    awk -v a="$1" -v b="$2" 'BEGIN { split(a, x, "[.-]"); split(b, y, "[.-]"); exit !(x[1] + 0 > y[1] + 0 || (x[1] + 0 == y[1] + 0 && x[2] + 0 >= y[2] + 0)) }'
}

check_docker() {
    local version
    if ! command -v docker >/dev/null 2>&1; then
        bad "Docker is not installed" "https://docs.docker.com/engine/install/ tells how; $MIN_DOCKER or later"
        return 1
    fi
    if ! version=$(docker version --format '{{.Server.Version}}' 2>/dev/null) || [ -z "$version" ]; then
        bad "the Docker daemon does not answer" "start Docker (systemctl start docker), or let this user in: usermod -aG docker $(id -un)"
        return 1
    fi
    if at_least "$version" "$MIN_DOCKER"; then
        ok "Docker $version (minimum $MIN_DOCKER)"
    else
        bad "Docker $version is too old, $MIN_DOCKER is the minimum" "https://docs.docker.com/engine/install/ tells how to upgrade"
    fi
}

check_compose() {
    local version
    if version=$(docker compose version --short 2>/dev/null) && [ -n "$version" ]; then
        version=${version#v}
    elif command -v docker-compose >/dev/null 2>&1; then
        version=$(docker-compose version --short 2>/dev/null)
    else
        bad "Docker Compose is not installed" "https://docs.docker.com/compose/install/ tells how; $GOOD_COMPOSE or later"
        return
    fi
    if ! at_least "$version" "$MIN_COMPOSE"; then
        bad "Compose $version is too old, it does not know the Compose specification" "install $GOOD_COMPOSE or later: https://docs.docker.com/compose/install/"
    elif ! at_least "$version" "$GOOD_COMPOSE"; then
        warn "Compose $version works for most of it; $GOOD_COMPOSE or later is recommended"
    else
        ok "Compose $version (minimum $MIN_COMPOSE, recommended $GOOD_COMPOSE)"
    fi
}

check_resources() {
    local bytes cpus gb root free
    bytes=$(docker info --format '{{.MemTotal}}' 2>/dev/null) cpus=$(docker info --format '{{.NCPU}}' 2>/dev/null)
    gb=$((${bytes:-0} / 1000000000))
    if [ "$gb" -lt "$MIN_MEMORY_GB" ]; then
        bad "Docker has $gb GB of memory, $MIN_MEMORY_GB GB is the minimum" "give it more in Docker's settings"
    elif [ "$gb" -lt "$GOOD_MEMORY_GB" ]; then
        warn "Docker has $gb GB of memory, $GOOD_MEMORY_GB GB or more is recommended"
    else
        ok "$gb GB of memory (minimum $MIN_MEMORY_GB, recommended $GOOD_MEMORY_GB)"
    fi
    if [ "${cpus:-0}" -lt "$GOOD_CPUS" ]; then
        warn "Docker has ${cpus:-?} CPUs, $GOOD_CPUS are recommended: the first build takes longer"
    else
        ok "$cpus CPUs (recommended $GOOD_CPUS)"
    fi
    # In a virtual machine of Docker's own the folder is not here: then the disk of this folder.
    root=$(docker info --format '{{.DockerRootDir}}' 2>/dev/null)
    [ -d "$root" ] || root=$ROOT
    free=${PGVIGIL_FREE_DISK_GB:-$(df -Pk "$root" | awk 'NR == 2 { printf "%d", $4 / 1000000 }')}
    if [ "$free" -lt "$MIN_DISK_GB" ]; then
        bad "$free GB are free on the disk of $root, $MIN_DISK_GB GB is the minimum" "docker system prune frees what is unused"
    elif [ "$free" -lt "$GOOD_DISK_GB" ]; then
        warn "$free GB are free on the disk of $root, $GOOD_DISK_GB GB are recommended"
    else
        ok "$free GB of disk (minimum $MIN_DISK_GB, recommended $GOOD_DISK_GB)"
    fi
}

is_busy() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; } # PORT

holder_of() { # PORT: who listens there, as far as can be seen
    local who
    who=$(docker ps --filter "publish=$1" --format 'container {{.Names}}' 2>/dev/null | head -n 1)
    [ "$who" ] || who=$( (ss -ltnpH "sport = :$1" || lsof -nP -iTCP:"$1" -sTCP:LISTEN) 2>/dev/null | head -n 1 |
        sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/pid \2 (\1)/p')
    printf '%s' "${who:-another program}"
}

check_ports() {
    local port holder busy=0
    for port in $PORTS; do
        is_busy "$port" || continue
        holder=$(holder_of "$port")
        case " $CONTAINERS " in *" ${holder#container } "*) continue ;; esac # the lab itself
        bad "port $port is busy: $holder" "stop that program: the lab's ports are fixed ($PORTS)"
        busy=1
    done
    [ "$busy" = 1 ] || ok "the ports are free ($PORTS)"
}

check_network() {
    local id name subnets taken=''
    for id in $(docker network ls -q 2>/dev/null); do
        name=$(docker network inspect -f '{{.Name}}' "$id" 2>/dev/null)
        [ "$name" != postgres-cluster ] || continue
        subnets=$(docker network inspect -f '{{range .IPAM.Config}}{{.Subnet}} {{end}}' "$id" 2>/dev/null)
        case " $subnets" in
            *" $SUBNET."* | *' 172.28.0.0/'*) taken=$name ;;
        esac
    done
    if [ "$taken" ]; then
        bad "Docker's network $taken has the addresses of the lab ($SUBNET.0/24)" "docker network rm $taken"
    else
        ok "network $SUBNET.0/24 is free"
    fi
}

ENV_FILE=''
# VARIABLE of the .env file, without the quotes that Compose takes off as well
value() { sed -n "s/^$1=//p" "$ENV_FILE" | tail -n 1 | tr -d '\r' | sed "s/^\"\(.*\)\"\$/\1/; s/^'\(.*\)'\$/\1/"; }

expect() { # VARIABLE PATTERN WHAT
    local text
    text=$(value "$1")
    if ! printf '%s\n' "$text" | grep -Eq "^($2)\$"; then
        bad "$1 is \`$text\` in ${ENV_FILE##*/}, $3 is expected" "correct it there, .env.test shows how"
        return 1
    fi
}

check_env_file() {
    local before=$ERRORS cidr='[0-9a-fA-F.:]+(/[0-9]{1,3})?'
    ENV_FILE=${PGVIGIL_ENV_FILE-}
    if [ -z "$ENV_FILE" ]; then
        ENV_FILE=$ROOT/.env
        [ -e "$ENV_FILE" ] || ENV_FILE=$ROOT/.env.test
    fi
    if [ ! -r "$ENV_FILE" ]; then
        bad "no .env file $ENV_FILE" "cp .env.test .env, or set PGVIGIL_ENV_FILE"
        return
    fi
    expect COMPOSE_FILE '.*docker-compose\.yml.*' 'docker/docker-compose.yml'
    expect POSTGRES_PASSWORD '.+' 'a password'
    expect POSTGRES_DB '([A-Za-z_][A-Za-z0-9_.-]{0,62})?' 'a name'
    expect LOAD_SCHEMA '(true|false)?' 'true or false'
    expect LOAD_TEST_DATA '(true|false)?' 'true or false'
    if [ "$(value LOAD_SCHEMA)" = false ]; then
        [ "$(value LOAD_TEST_DATA)" != true ] ||
            bad "LOAD_TEST_DATA is true and LOAD_SCHEMA false in ${ENV_FILE##*/}: there are no tables for the rows" "set both alike"
    fi
    expect APP_USER '[A-Za-z_][A-Za-z0-9_.-]{0,62}' 'a name' && [ "$(value APP_USER)" = postgres ] &&
        bad "APP_USER is the superuser in ${ENV_FILE##*/}" "give the application a role of its own"
    expect APP_PASSWORD '.+' 'a password'
    expect PG_HBA_CIDR "($cidr(,$cidr)*)?" 'a network like 172.28.0.0/24'
    expect LOG_LEVEL '(none|ddl|mod|all)?' 'none, ddl, mod or all'
    expect PG_AUTOCTL_HEARTBEAT '([0-9]{1,2}(\.[0-9]{1,3})?)?' 'a number of seconds'
    expect PG_AUTOCTL_TIMEOUT '([2-9]|[1-9][0-9]|100)?' 'a number from 2 to 100'
    expect PROBE_WRITER '(true|false)?' 'true or false'
    expect PROBE_INTERVAL '([0-9]+(ms|s))?' 'a time like 100ms'
    expect POSTGRES_SUPERUSER '([A-Za-z_][A-Za-z0-9_.-]{0,62})?' 'a name'
    expect BIND_ADDRESS '([0-9.]+|\[[0-9a-fA-F:]+\])?' 'an address of this machine'
    expect ALERT_WEBHOOK_URL '(https?://.+)?' 'an address that begins with http:// or https://'
    expect ALERT_SLACK_URL '(https?://.+)?' 'an address that begins with http:// or https://'
    if [ "$(value ALERT_EMAIL_TO)" ]; then
        expect ALERT_EMAIL_FROM '.+' 'a sender of the mail to ALERT_EMAIL_TO'
        expect ALERT_SMTP_HOST '.+:[0-9]+' 'host:port for the mail to ALERT_EMAIL_TO'
    fi
    [ "$ERRORS" != "$before" ] || ok "${ENV_FILE##*/} is complete"
}

registry_answers() { # within 5 s; a firewall that says nothing would take two minutes
    local pid seconds=0
    (exec 3<>/dev/tcp/registry-1.docker.io/443) 2>/dev/null &
    pid=$!
    while kill -0 "$pid" 2>/dev/null; do
        [ "$seconds" -lt 5 ] || { kill "$pid"; break; }
        sleep 1
        seconds=$((seconds + 1))
    done
    wait "$pid" 2>/dev/null
}

check_images() {
    local image missing=''
    for image in debian:trixie-slim rust:1-trixie "$(value PROMETHEUS_IMAGE)" "$(value ALERTMANAGER_IMAGE)" "$(value POSTGRES_EXPORTER_IMAGE)"; do
        [ "$image" ] || continue
        docker image inspect "$image" >/dev/null 2>&1 || missing="$missing $image"
    done
    if [ -z "$missing" ]; then
        ok "the images to start from are here"
    elif registry_answers; then
        ok "Docker's registry can be reached (to pull:$missing)"
    else
        warn "Docker's registry cannot be reached, and these images are not here:$missing; docker/offline-images makes them"
    fi
}

check_tools() {
    local tool missing=''
    for tool in jq curl psql; do command -v "$tool" >/dev/null 2>&1 || missing="$missing $tool"; done
    [ -z "$missing" ] || warn "not installed:$missing (the test scripts need jq; curl and psql are for trying things by hand)"
}

for arg; do
    case $arg in
        --quiet) QUIET=1 ;;
        -h | --help)
            sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
            exit 0
            ;;
        *)
            printf 'error: unexpected argument: %s\nhint: scripts/health-check.sh --help\n' "$arg" >&2
            exit 2
            ;;
    esac
done

[ "$QUIET" ] || printf 'needed: Docker %s, Compose %s (better %s), %s GB of memory (better %s), %s GB of disk (better %s), better %s CPUs\n' \
    "$MIN_DOCKER" "$MIN_COMPOSE" "$GOOD_COMPOSE" "$MIN_MEMORY_GB" "$GOOD_MEMORY_GB" "$MIN_DISK_GB" "$GOOD_DISK_GB" "$GOOD_CPUS"
check_env_file
if check_docker; then
    check_compose
    check_resources
    check_ports
    check_network
    check_images
fi
check_tools
if [ "$ERRORS" -gt 0 ]; then
    printf '%s problems: the lab cannot run here yet\n' "$ERRORS" >&2
    exit 1
fi
[ "$QUIET" ] || echo 'the lab can run here: scripts/lab up --docker'
