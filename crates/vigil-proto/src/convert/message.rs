//! What keepers and the monitor tell each other.

use vigil_core::group::Settings;
use vigil_core::ids::RuleId;
use vigil_core::limits::Limits;
use vigil_core::message::{
    Following, Goal, Hello, NotLetIn, Notice, Order, Peer, Problem, Report, Sender, Trouble,
    Welcome,
};
use vigil_core::rule::{Pledge, SyncRule};
use vigil_core::wal::{Position, TimelineHistory};

use crate::pb;
use crate::wire::{BadMessage, message, wired};

wired!(Goal);

message! {
    Hello {
        formation,
        group,
        name,
        host,
        port,
        candidate_priority,
        replication_quorum,
        node_id,
        system_id,
        promise,
        rules_held,
        settings,
        peers,
        postgres_major,
    }
    Welcome { node_id, settings }
    Report {
        state,
        promise,
        order_seq,
        server,
        pledge,
        own_rule,
        in_force,
        covered,
        rules_held,
        position,
        replayed,
        history,
        highest_tli,
        following,
        senders,
        rewind_source,
        usable,
        prepared,
        leaving,
        delayed,
        limits,
        problem,
        notices,
        interval_ms,
        look_age_ms,
        not_let_in,
        troubles,
        starved_ms,
        doing,
        system_id,
    }
    Order { epoch, seq, goal_state, goal, rules, peers, settings, replication_password, room }
    Limits {
        max_connections,
        max_worker_processes,
        max_wal_senders,
        max_prepared_transactions,
        max_locks_per_transaction,
    }
    Settings {
        number_sync_standbys,
        heartbeat_interval_ms,
        heartbeat_misses,
        member_gone_ms,
        max_failovers,
        failover_window_ms,
    }
    SyncRule { epoch, version, primary, members, acks }
    RuleId { epoch, version }
    Pledge { epoch, position, usable, fetching }
    Position { tli, lsn }
    TimelineHistory { tli, ancestors }
    Following { primary, epoch, streaming, wal_age_ms }
    Sender { name, streaming, flush, replay, reply_age_ms }
    Problem { code, text, failures }
    NotLetIn { barrier, text }
    Trouble { kind, place, text }
    Notice { seq, kind, text }
    Peer { id, name, host, port, candidate_priority, replication_quorum, maintenance }
}
