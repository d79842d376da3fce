#!/bin/bash
# A failover of a group: planned and without loss when its primary is healthy, otherwise an election.
#   /opt/pgaf/perform-failover.sh [OPTION…]     options of `pgctl perform-failover`
# PGAF_FORMATION (default) and PGAF_GROUP (0) choose the group. Exit codes are those of pgctl.
set -euo pipefail
exec pgctl --formation "${PGAF_FORMATION:-default}" --group "${PGAF_GROUP:-0}" perform-failover "$@"
