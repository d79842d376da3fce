#!/bin/bash
# Last resort when the monitor cannot be brought back: this node's Postgres alone, writable, without
# a keeper, without standbys, without any protection against a second primary.
#   docker compose stop                                   nothing else may write
#   docker compose rm -f postgres-replica1
#   docker compose run -d --name last-resort --service-ports --no-deps postgres-replica1 /opt/pgaf/last-resort.sh
# What only the lost primary had is not there. README tells the way back.
set -euo pipefail
: "${PGDATA:=/var/lib/postgresql/pgdata}"
[[ -e $PGDATA/PG_VERSION ]] || {
    echo "error: no data in $PGDATA" >&2
    exit 1
}
exec 9>"$PGDATA.last-resort"
flock -n 9 || {
    echo "error: it runs already" >&2
    exit 1
}
# The keeper's own notes are about what it was ordered; this data goes its own way from here.
rm -rf "$PGDATA.pgvigil" "$PGDATA/standby.signal" "$PGDATA/recovery.signal" "$PGDATA/postmaster.pid"
bin=/usr/lib/postgresql/$(<"$PGDATA/PG_VERSION")/bin
echo "starting $PGDATA as a primary of its own"
"$bin/postgres" -D "$PGDATA" -c synchronous_standby_names= -c primary_conninfo= -c primary_slot_name= \
    -c recovery_target_timeline=latest -c "port=${PGAF_NODE_PORT:-5432}" -c 'listen_addresses=*' -c logging_collector=off &
server=$!
# Docker's SIGTERM alone would wait for every client to go by itself.
trap 'kill -INT "$server"' TERM INT
while kill -0 "$server" 2>/dev/null; do wait "$server" || true; done
