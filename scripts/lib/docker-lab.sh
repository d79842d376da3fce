# Sourced by scripts/lab and the test scripts: the compose lab as a whole. Needs compose.sh.

need_docker() {
    "$ROOT/scripts/health-check.sh" --quiet || die 8 "the compose lab cannot run on this machine" "see the errors above; scripts/health-check.sh shows all checks"
}

# What the Dockerfile and the compose file start from: pulled, or made where nothing can be pulled.
need_images() {
    local image
    for image in debian:trixie-slim rust:1-trixie; do
        docker image inspect "$image" >/dev/null 2>&1 && continue
        if timeout 600 docker pull -q "$image" >/dev/null 2>&1; then continue; fi
        ((EUID == 0)) && type -P debootstrap >/dev/null ||
            die 8 "the image $image cannot be pulled from Docker's registry" "as root, on Debian: apt-get install debootstrap; docker/offline-images"
        say "Docker's registry cannot be reached: making the images from Debian's packages"
        "$ROOT/docker/offline-images"
        return
    done
}

lab_volumes() { # those of the lab that are there
    local volume
    for volume in "${VOLUMES[@]}"; do ! docker volume inspect "$volume" >/dev/null 2>&1 || printf '%s ' "$volume"; done
}

lab_containers() { # those of the lab that are there, running or not
    local name
    for name in "${CONTAINERS[@]}"; do [[ -z $(container_state "$name") ]] || printf '%s ' "$name"; done
}

fail_compose_up() { # MESSAGE: with what helps to see why
    local name
    for name in $(lab_containers); do
        [[ $(container_health "$name") != healthy ]] || continue
        say "--- $name is $(container_state "$name"), its last lines:"
        docker logs --tail 5 "$name" >&2 2>&1 || true
    done
    die 1 "$1" "$(compose_name) logs; scripts/lab reset --docker begins anew"
}

docker_up() {
    local began=$SECONDS
    need_jq
    need_docker
    need_images
    say "building the images (the first time it takes minutes)"
    compose build >&2 || die 1 "the images could not be built"
    say "built after $((SECONDS - began)) s"
    compose up -d --no-build >&2 || fail_compose_up "$(compose_name) up failed"
    wait_for 180 is_settled || fail_compose_up "not 1 primary and 2 secondaries after 180 s"
    wait_for 120 all_healthy || fail_compose_up "not all containers are healthy after 120 s: $(not_healthy)"
    say "up after $((SECONDS - began)) s"
    lab_pgctl show-state
    docker_hints
}

docker_hints() {
    local file password dc
    dc=$(compose_name)
    file=$(env_file)
    password=$(env_value POSTGRES_PASSWORD)
    file=${file#"$ROOT/"}
    cat <<TEXT

What to try, from the top of the repository (first: cp $file .env):
  $dc exec pgaf-monitor pgctl show-state
  $dc exec pgaf-monitor psql -d pg_auto_failover -c 'select nodename, reportedstate, health from pgautofailover.node'
  PGPASSWORD=$password psql -h 127.0.0.1 -p $(port_of "$(primary_service)") -U postgres -d $(app_database) -c 'select count(*) from patients'
  $dc kill postgres-primary; $dc exec pgaf-monitor pgctl show-events
  $dc start postgres-primary           it comes back as a secondary
  $dc exec pgaf-monitor /opt/pgaf/perform-failover.sh
  $dc exec pgaf-monitor pgctl show-uri     where to write after a failover
  scripts/lab-tests                               the five tests, drills and recipes
  Prometheus http://127.0.0.1:9090   Alertmanager http://127.0.0.1:9093   metrics http://127.0.0.1:9187/metrics$(is_offline || printf '   Grafana http://127.0.0.1:3000 (%s / %s)' "$(env_value GRAFANA_USER admin)" "$(env_value GRAFANA_PASSWORD admin)")
  scripts/lab down --docker                       stop; the data stays. reset --docker removes it
TEXT
}

docker_down() {
    compose down >&2 || die 1 "$(compose_name) down failed"
    say "down; the data stays in Docker's volumes"
}

docker_reset() {
    compose down -v >&2 || die 1 "$(compose_name) down -v failed"
    say "removed the containers and their data"
}

docker_status() {
    local name first=1
    if [[ $JSON ]]; then
        printf '{"healthy":%s,"containers":[' "$(is_settled && echo true || echo false)"
        for name in $(lab_containers); do
            [[ $first ]] || printf ','
            first=
            printf '{"name":"%s","state":"%s","health":"%s"}' "$name" "$(container_state "$name")" "$(container_health "$name")"
        done
        printf ']}\n'
        return
    fi
    [[ $(lab_containers) ]] || die 4 "the compose lab is not there" "scripts/lab up --docker"
    for name in $(lab_containers); do printf '%-18s %-10s %s\n' "$name" "$(container_state "$name")" "$(container_health "$name")"; done
    lab_pgctl show-state
}
