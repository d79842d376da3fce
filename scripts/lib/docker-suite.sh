# Sourced by scripts/test, in a shell of its own: everything that the compose lab promises, from the
# build to the removal. Needs ROOT, WORK, common.sh; prints `NOT RUN: …` for what it cannot run.

# shellcheck source=scripts/lib/compose.sh
. "$ROOT/scripts/lib/compose.sh"
# shellcheck source=scripts/lib/docker-lab.sh
. "$ROOT/scripts/lib/docker-lab.sh"
# shellcheck source=scripts/lib/drills.sh
. "$ROOT/scripts/lib/drills.sh"

SUITE_FAILED=0 SUITE_PASSED=0
RECEIVER_URL=http://172.28.0.1:9099/ # where scripts/test-alerts listens, seen from the lab's network

# Not by an .env of the user's: by the files that are there.
unset COMPOSE_FILE COMPOSE_PROJECT_NAME COMPOSE_PROFILES PGVIGIL_ENV_FILE
for name in $(sed -n 's/^\([A-Z_]*\)=.*/\1/p' "$ROOT/.env.test"); do unset "$name"; done
# The build is for real, its optimization is not: that is half of its time. With --all it is.
if [[ ${PGVIGIL_TEST_ALL-} ]]; then unset PGVIGIL_OPT_LEVEL; else export PGVIGIL_OPT_LEVEL=0; fi

docker_suite() { # [CALM]: seconds without any alert
    local calm=${1:-60}
    if ! type -P docker >/dev/null || ! timeout 20 docker version >/dev/null 2>&1; then
        echo 'NOT RUN: docker compose lab (no Docker daemon here)'
        return
    fi
    need_jq
    if [[ $(lab_containers) || $(lab_volumes) ]]; then
        echo "NOT RUN: docker compose lab (there is one already, with $(lab_containers)$(lab_volumes); scripts/lab reset --docker removes it)"
        return
    fi
    ((EUID != 0)) || "$ROOT/docker/offline-images" --tools
    compose_command
    trap 'clean_up_suite' EXIT
    # A lab of the suite only: whatever happens, it goes again.
    check images suite_images
    check preflight suite_preflight
    check build suite_build
    ((SUITE_FAILED == 0)) || { end_of_suite; return; }
    check plain_up suite_plain_up
    if ((SUITE_FAILED == 0)); then
        check quick_checks suite_quick_checks
        check configurations suite_configurations
        check panels_and_alerts suite_alerts "$calm"
        check lab_tests suite_lab_tests
        check test_failover "$ROOT/scripts/test-failover.sh"
        check comprehensive suite_comprehensive
        check panels_after_drills suite_panels
    fi
    check down_v suite_down_v
    check wrong_values suite_wrong_values
    check production suite_production
    ! is_offline || echo 'NOT RUN: Grafana (no image of it can be pulled here; its dashboards are checked all the same)'
    end_of_suite
}

end_of_suite() {
    printf 'docker: %d passed, %d failed\n' "$SUITE_PASSED" "$SUITE_FAILED"
    ((SUITE_FAILED == 0))
}

check() { # NAME COMMAND…
    local name=$1 rc=0 began=$SECONDS
    shift
    set +e
    (
        set -eE
        trap 'say "line $LINENO: $BASH_COMMAND"' ERR
        trap - EXIT
        rm -f "$WORK/detail"
        "$@"
    ) >"$WORK/docker-$name.log" 2>&1 </dev/null
    rc=$?
    set -e
    if ((rc == 0)); then
        SUITE_PASSED=$((SUITE_PASSED + 1))
        printf '  ok      %s (%d s) %s\n' "$name" $((SECONDS - began)) "$(paste -sd';' "$WORK/detail" 2>/dev/null || true)"
        grep -E '^  (ok|FAILED)  |^lab-tests:' "$WORK/docker-$name.log" || true
    else
        SUITE_FAILED=$((SUITE_FAILED + 1))
        printf '  FAILED  %s with exit code %d (%d s)\n' "$name" "$rc" $((SECONDS - began))
        tail -n 60 "$WORK/docker-$name.log" | sed 's/^/          | /'
    fi
    rm -f "$WORK/detail"
}

clean_up_suite() {
    docker rm -f last-resort lab-busy-port >/dev/null 2>&1 || true
    docker network rm lab-elsewhere >/dev/null 2>&1 || true
    compose down -v >/dev/null 2>&1 || true
    docker rm -f "${CONTAINERS[@]}" >/dev/null 2>&1 || true
    docker volume rm "${VOLUMES[@]}" >/dev/null 2>&1 || true
    docker network rm "$NETWORK" >/dev/null 2>&1 || true
    # Not what a user's `up` shall find; the layers stay in the cache.
    [[ ! ${PGVIGIL_OPT_LEVEL-} ]] || docker rmi -f pgvigil-{monitor,keeper,exporter,pgctl} >/dev/null 2>&1 || true
}

# --- before it runs -----------------------------------------------------------------------------------------

suite_images() { need_images; }

# What a user meets who lacks something: one clear line each.
suite_preflight() {
    local file=$WORK/wrong.env tool
    "$ROOT/scripts/health-check.sh"
    sed 's/^LOG_LEVEL=.*/LOG_LEVEL=chatty/; s/^POSTGRES_PASSWORD=.*/POSTGRES_PASSWORD=/; s/^PG_AUTOCTL_TIMEOUT=.*/PG_AUTOCTL_TIMEOUT=often/; s/^ALERT_WEBHOOK_URL=.*/ALERT_WEBHOOK_URL=hooks.example/' "$ROOT/.env.test" >"$file"
    refuses 'LOG_LEVEL is `chatty`' env PGVIGIL_ENV_FILE="$file" scripts/health-check.sh
    refuses 'POSTGRES_PASSWORD is ``' env PGVIGIL_ENV_FILE="$file" scripts/health-check.sh
    refuses 'ALERT_WEBHOOK_URL is `hooks.example`' env PGVIGIL_ENV_FILE="$file" scripts/health-check.sh
    refuses 'PG_AUTOCTL_TIMEOUT is `often`' env PGVIGIL_ENV_FILE="$file" scripts/health-check.sh
    refuses "no .env file $WORK/none" env PGVIGIL_ENV_FILE="$WORK/none" scripts/health-check.sh
    refuses '1 GB are free' env PGVIGIL_FREE_DISK_GB=1 scripts/health-check.sh
    # A PATH with a docker that has no daemon, an old compose, or no docker at all.
    mkdir -p "$WORK/no-docker" "$WORK/old-compose"
    for tool in bash env sed awk grep df cut head tail tr id dirname cat timeout ps; do
        ln -sf "$(type -P "$tool")" "$WORK/no-docker/$tool"
    done
    refuses 'Docker is not installed' env PATH="$WORK/no-docker" scripts/health-check.sh
    refuses 'Docker is not installed' env PATH="$WORK/no-docker" scripts/lab up --docker
    refuses 'the Docker daemon does not answer' env DOCKER_HOST="unix://$WORK/none.sock" scripts/health-check.sh
    printf '#!/bin/bash\nif [[ $1 == compose ]]; then exit 1; fi\nexec %q "$@"\n' "$(type -P docker)" >"$WORK/old-compose/docker"
    printf '#!/bin/bash\necho 1.25.0\n' >"$WORK/old-compose/docker-compose"
    chmod 755 "$WORK/old-compose"/*
    refuses 'Compose 1.25.0 is too old' env PATH="$WORK/old-compose:$PATH" scripts/health-check.sh
    # Somebody has a port of ours.
    docker run -d --rm --name lab-busy-port -p 127.0.0.1:9187:80 "$(sed -n 's/^ARG DEBIAN_IMAGE=//p' docker/Dockerfile)" sleep 600 >/dev/null
    refuses 'port 9187 is busy: container lab-busy-port' scripts/health-check.sh
    refuses 'port 9187 is busy: container lab-busy-port' scripts/lab up --docker
    docker rm -f lab-busy-port >/dev/null
    # Compose itself, without any .env file (it names whichever variable it comes to first), and the older Compose.
    refuses '_PASSWORD' "${COMPOSE[@]}" -f docker/docker-compose.yml config
    ! type -P docker-compose >/dev/null || docker-compose --env-file .env.test -f docker/docker-compose.yml config -q
    "${COMPOSE[@]}" --env-file .env.prod config -q
    [[ -z $(lab_containers) ]]
}

refuses() { # TEXT COMMAND…: an `error:` line with the text (or Compose's own), and no exit code 0
    local text=$1 out rc=0
    shift
    out=$(cd "$ROOT" && "$@" 2>&1) || rc=$?
    ((rc != 0)) || fail "exit code 0 where this was expected: $text"
    grep -F "$text" <<<"$out" | grep -i error >/dev/null || fail "no line that says: $text; but: $out"
}

suite_build() {
    compose --profile tools build
    local target
    for target in monitor keeper exporter pgctl; do
        detail "$target $(docker image inspect -f '{{.Size}}' "pgvigil-$target" | awk '{ printf "%d MB", $1 / 1e6 }')"
    done
    docker run --rm pgvigil-pgctl --version
    [[ $(docker run --rm --entrypoint id pgvigil-keeper -un) == postgres ]]
}

# --- as README has it -----------------------------------------------------------------------------------------

# The command as a user types it, only without Grafana where there is none.
plain() { # ENV_FILE ARGS…
    local file=$1
    shift
    if is_offline; then
        COMPOSE_FILE=docker/docker-compose.yml:docker/offline.yml "${COMPOSE[@]}" --env-file "$file" "$@"
    else
        "${COMPOSE[@]}" --env-file "$file" "$@"
    fi
}

suite_plain_up() {
    local began
    cd "$ROOT"
    began=$(now_us)
    ALERT_WEBHOOK_URL=$RECEIVER_URL PROBE_WRITER=true plain .env.test up -d --build
    wait_for 240 all_healthy || fail_compose_up "not all healthy: $(not_healthy)"
    await_settled 60
    at_most 'up to all healthy' "$(ms_since "$began")" 300000
    ! plain .env.test ps -a | grep -iE 'unhealthy|exited|restarting' || fail "not all are healthy"
}

suite_quick_checks() {
    local rows state
    cd "$ROOT"
    [[ $(plain .env.test exec -T pgaf-monitor /opt/pgaf/show-state.sh | jq -r '.nodes[] | select(.reportedstate=="primary") | .nodename') == node1 ]]
    [[ $(plain .env.test exec -T pgaf-monitor psql -d pg_auto_failover -XAtc "select count(*) from pgautofailover.node where health = 1") == 3 ]]
    [[ $(plain .env.test exec -T pgaf-monitor psql -U postgres -d pg_auto_failover -XAtc 'select current_user') == postgres ]]
    [[ $(plain .env.test exec -T postgres-primary psql -U postgres -d healthcare_db -XAtc 'select count(*) from patients') == 15 ]]
    state=$(count_rows node1)
    [[ $state == 'appointments=10 audit_log=0 healthcare_providers=5 lab_results=4 medical_facilities=3 medical_records=3 patients=15 prescriptions=3' ]] || fail "$state"
    rows=$(docker exec -e PGPASSWORD=admin postgres-replica1 psql -h postgres-primary -U admin -d healthcare_db -XAtqc "insert into audit_log (actor, action, context) values ('a', 'b', '{}') returning 1" -c "delete from audit_log where actor = 'a'")
    [[ $rows == 1 ]] || fail "the application's role cannot write"
    [[ $(docker exec -e PGPASSWORD=postgres_password postgres-replica2 psql -h postgres-primary -U postgres -d postgres -XAtqc 'show log_statement') == all ]]
    # From outside, through the ports of this machine.
    (exec 3<>/dev/tcp/127.0.0.1/5431) && (exec 3<>/dev/tcp/127.0.0.1/5434)
    http http://127.0.0.1:6010/primary >/dev/null
    http http://127.0.0.1:6011/replica >/dev/null
    http http://127.0.0.1:6012/replica >/dev/null
    http http://127.0.0.1:9090/-/ready >/dev/null
    http http://127.0.0.1:9093/-/ready >/dev/null
    state=$(http http://127.0.0.1:9187/metrics)
    grep -q '^pg_auto_failover_node_state_health_code' <<<"$state"
    if type -P psql >/dev/null; then
        [[ $(PGPASSWORD=postgres_password psql -h 127.0.0.1 -p 5433 -U postgres -d postgres -XAtc 'select pg_is_in_recovery()') == t ]]
        [[ $(psql -h 127.0.0.1 -p 5431 -U autoctl_node -d pg_auto_failover -XAtc 'SELECT 1') == 1 ]]
    fi
    # The names of nodes and services, for pgctl too, and a script that looks whether it has stopped what it stops.
    [[ $(service_of node2) == postgres-replica1 && $(service_of postgres-replica1) == postgres-replica1 ]]
    plain .env.test exec -T pgaf-monitor pgctl explain postgres-replica1 >/dev/null
    plain .env.test exec -T pgaf-monitor pgctl set-node postgres-replica1 --candidate-priority 90
    refuses 'no such node: node9' bash -c '. scripts/lib/common.sh; . scripts/lib/compose.sh; stop_service node9'
    state=$(plain .env.test run --rm -T pgctl show-state)
    grep -q node3 <<<"$state"
    # An init that reaps, and nobody who is root.
    [[ $(docker exec postgres-primary cat /proc/1/comm) == tini ]]
    ! docker top postgres-primary -eo pid,uid | awk '{ print $2 }' | grep -x 0 >/dev/null
}

suite_configurations() {
    docker exec prometheus promtool check config /etc/prometheus/prometheus.yml
    docker exec prometheus promtool check rules /etc/prometheus/rules/pgvigil.yml
    docker exec alertmanager amtool check-config /alertmanager/alertmanager.yml
}

suite_alerts() { # CALM
    type -P python3 >/dev/null || fail "python3 is not installed"
    "$ROOT/scripts/test-alerts" --docker --calm "$1"
}

suite_comprehensive() { # on the lab that is there; its log goes where it is started
    cd "$WORK"
    "$ROOT/scripts/test-comprehensive-failover.sh"
}

suite_lab_tests() { "$ROOT/scripts/lab-tests" --json "$WORK/lab-tests.json"; }

# The last drill made the monitor and two nodes anew: Prometheus has to find them, rates need a minute
# of samples, and of changes of the primary the monitor knows the one of test_failover only.
suite_panels() {
    wait_for 100 "$ROOT/scripts/check-panels"
}

suite_down_v() {
    cd "$ROOT"
    plain .env.test down -v
    [[ -z $(lab_containers) && -z $(lab_volumes) ]] || fail "left: $(lab_containers) $(lab_volumes)"
    ! docker network inspect "$NETWORK" >/dev/null 2>&1 || fail "the network is left"
}

# --- wrong values in a container: a line, and no restart loop ----------------------------------------------------

suite_wrong_values() {
    cd "$ROOT"
    LOG_LEVEL=chatty plain .env.test up -d --no-build pgaf-monitor postgres-primary
    wait_for 30 is_stopped postgres-primary || fail "postgres-primary is $(container_state postgres-primary)"
    sleep 3
    is_stopped postgres-primary && [[ $(docker inspect -f '{{.RestartCount}}' postgres-primary) == 0 ]] || fail "it is restarted again and again"
    docker logs postgres-primary 2>&1 | grep '^error: LOG_LEVEL is `chatty`' >/dev/null || fail "$(docker logs postgres-primary 2>&1)"
    # Mended, it goes on where it was.
    plain .env.test up -d --no-build pgaf-monitor postgres-primary
    wait_for 60 is_primary_node node1 || fail "node1 does not come up after the value was mended"
    PG_AUTOCTL_HEARTBEAT=soon plain .env.test up -d --no-build pgaf-monitor || true
    wait_for 30 is_stopped pgaf-monitor || fail "pgaf-monitor is $(container_state pgaf-monitor)"
    docker logs pgaf-monitor 2>&1 | grep '^error: PG_AUTOCTL_HEARTBEAT is `soon`' >/dev/null || fail "$(docker logs pgaf-monitor 2>&1)"
    stays_stopped 'error: ALERT_EMAIL_TO needs ALERT_EMAIL_FROM' ALERT_EMAIL_TO=ops@example.org
    stays_stopped 'error: Alertmanager cannot use an ALERT_* variable' ALERT_WEBHOOK_URL=hooks.example
    plain .env.test down -v
}

stays_stopped() { # TEXT VARIABLE=VALUE: so Alertmanager, with this line
    export "${2?}"
    plain .env.test up -d --no-build alertmanager
    unset "${2%%=*}"
    wait_for 30 is_stopped alertmanager || fail "alertmanager is $(container_state alertmanager)"
    sleep 3
    is_stopped alertmanager && [[ $(docker inspect -f '{{.RestartCount}}' alertmanager) == 0 ]] || fail "it is restarted again and again"
    docker logs alertmanager 2>&1 | grep -F "$1" >/dev/null || fail "$(docker logs alertmanager 2>&1)"
}

# --- .env.prod --------------------------------------------------------------------------------------------------------

suite_production() {
    cd "$ROOT"
    export PGVIGIL_ENV_FILE=$ROOT/.env.prod
    scripts/lab up --docker
    [[ $(scripts/lab status --docker --json | jq -c '[.healthy, (.containers | length > 5)]') == '[true,true]' ]] || fail "$(scripts/lab status --docker --json)"
    [[ $(client_sql healthcare_db "select count(*) from information_schema.tables where table_schema = 'public'") == 8 ]] || fail "not eight tables"
    [[ $(client_sql healthcare_db 'select count(*) from patients') == 0 ]] || fail "there is test data"
    local service
    for service in "${SERVICES[@]}"; do
        [[ $(node_sql "$service" postgres 'show log_statement') == ddl ]] || fail "log_statement of $service"
        ! docker exec "$service" grep -v '^#' /var/lib/postgresql/pgdata/pg_hba.conf | grep '0\.0\.0\.0/0' >/dev/null || fail "everybody may connect to $service"
        docker exec "$service" grep -q '^host all all 172.28.0.0/24 md5' /var/lib/postgresql/pgdata/pg_hba.conf || fail "pg_hba.conf of $service"
        ! docker exec -e PGPASSWORD=postgres_password "$service" psql -h "$service" -U postgres -d postgres -c '' >/dev/null 2>&1 || fail "$service takes the password of .env.test"
    done
    [[ $(docker exec -e PGPASSWORD=root postgres-replica1 psql -h postgres-primary -U root -d healthcare_db -XAtc 'select current_user') == root ]] || fail "APP_USER"
    # From another network of this machine: refused by name of the rule.
    docker network create lab-elsewhere --subnet 172.29.77.0/24 >/dev/null
    docker network connect lab-elsewhere postgres-primary
    local out
    out=$(docker run --rm --network lab-elsewhere -e PGPASSWORD=change_me_prod --entrypoint psql pgvigil-keeper -h postgres-primary -U postgres -d postgres -c 'select 1' 2>&1) && fail "a client from another network was let in"
    docker network disconnect lab-elsewhere postgres-primary
    docker network rm lab-elsewhere >/dev/null
    grep -q 'no pg_hba.conf entry' <<<"$out" || fail "$out"
    # Another level and another heartbeat: an `up` with the changed file is all that it takes.
    LOG_LEVEL=mod PG_AUTOCTL_HEARTBEAT=2 plain .env.prod up -d --no-build
    wait_for 120 all_healthy || fail "not all healthy: $(not_healthy)"
    await_settled 90
    wait_for 20 has_heartbeat 2000 || fail "the heartbeat was not changed"
    [[ $(node_sql node3 postgres 'show log_statement') == mod ]] || fail "log_statement was not changed"
    suite_other_logins
    scripts/lab down --docker
    [[ -z $(lab_containers) && $(lab_volumes) ]] || fail "after down: $(lab_containers) $(lab_volumes)"
    scripts/lab reset --docker
    [[ -z $(lab_volumes) ]] || fail "after reset: $(lab_volumes)"
    unset PGVIGIL_ENV_FILE
}

# Node by node, the primary's last, as README says: then one leads that was a standby at its start.
suite_other_logins() {
    local service order last
    last=$(primary_service)
    order=$(others_than "$last")
    export POSTGRES_PASSWORD=another APP_USER=clerk APP_PASSWORD=clerk2
    for service in $order "$last"; do
        plain .env.prod up -d --no-build --no-deps "$service"
        wait_for 60 is_back_as_secondary "$service" || fail "$service has not come back: $(state_of "$service")"
        await_settled
    done
    [[ $(primary_service) != "$last" ]] || fail "$last leads again"
    wait_for 20 clerk_reads || fail "the application's new role cannot read"
    [[ $(docker exec -e PGPASSWORD=another postgres-replica1 psql -h "$(primary_service)" -U postgres -d postgres -XAtc 'select 1') == 1 ]] || fail "POSTGRES_PASSWORD"
    unset POSTGRES_PASSWORD APP_USER APP_PASSWORD
}

clerk_reads() { [[ $(docker exec -e PGPASSWORD=clerk2 postgres-replica1 psql -h "$(primary_service)" -U clerk -d healthcare_db -XAtc 'select count(*) from patients') == 0 ]]; }

has_heartbeat() { [[ $(lab_pgctl --json show-settings | jq '.formations[0].heartbeat_interval_ms') == "$1" ]]; }
