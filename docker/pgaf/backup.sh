#!/bin/bash
# Dumps the application's database from this node, a standby or the primary, and removes dumps that
# are older than 7 days. Prints the new file.
#   docker exec postgres-replica1 /opt/pgaf/backup.sh [DIRECTORY]    default /var/lib/postgresql/backups
# Restore: pg_restore -d DATABASE FILE. Exit code 0 when the dump is complete and readable.
set -euo pipefail
dir=${1:-/var/lib/postgresql/backups} database=${POSTGRES_DB:-healthcare_db} days=${BACKUP_DAYS:-7}
mkdir -p "$dir"
file=$dir/$database-$(date -u +%Y%m%d-%H%M%S).dump
trap 'rm -f "$file.part"' EXIT
pg_dump -p "${PGAF_NODE_PORT:-5432}" -U postgres -Fc -f "$file.part" "$database"
pg_restore -l "$file.part" >/dev/null # a dump that was cut off has no table of contents
sync "$file.part"
mv "$file.part" "$file"
# Only after the new one is there.
find "$dir" -maxdepth 1 -name "$database-*.dump" -mmin "+$((days * 1440))" -delete
printf '%s\n' "$file"
