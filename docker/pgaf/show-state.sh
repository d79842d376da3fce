#!/bin/bash
# The state of the nodes as JSON, for jq:
#   /opt/pgaf/show-state.sh | jq -r '.nodes[] | select(.reportedstate=="primary") | .nodename'
# Further arguments go to pgctl. PGAF_FORMATION, PGAF_GROUP, PG_AUTOCTL_MONITOR choose what is shown.
set -euo pipefail
exec pgctl --json --formation "${PGAF_FORMATION:-default}" ${PGAF_GROUP:+--group "$PGAF_GROUP"} show-state "$@"
