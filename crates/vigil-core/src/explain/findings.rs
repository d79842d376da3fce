//! What is wrong at each node: cause, place and remedy.

use super::{is_starved, sees};
use crate::decide::{awaited_in_recovery, waiting_words};
use crate::detect::{Verdict, can_be_won, judge};
use crate::election::{Election, WaitFor};
use crate::facts::{Facts, Reach};
use crate::goals::current_election;
use crate::group::{Group, Member, Plan};
use crate::ids::Now;
use crate::message::{Barrier, NotLetIn, Problem, Report, Server, Trouble, TroubleKind};
use crate::node::ABOVE_PRIMARY;
use crate::rule::Shortfall;
use crate::view::Finding;

type Find<'a> = &'a mut dyn FnMut(&str, String, String);

pub(super) fn findings(group: &Group, facts: &Facts, member: &Member, now: Now) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut find = |code: &str, cause: String, remedy: String| {
        found.push(Finding { code: code.to_owned(), cause, remedy });
    };
    let name = &member.name;
    if facts.reach(member.id, &group.settings, now) == Reach::Unreachable {
        let cause = format!("no heartbeat from {name}'s keeper");
        let remedy = format!("see whether {} is up, then start vigil-keeper there", member.host);
        find("unreachable", cause, remedy);
    }
    if let Some(report) = facts.fresh(member.id, &group.settings, now) {
        seen_findings(group, facts, member, report, now, &mut find);
        node_findings(group, member, report, &mut find);
    }
    if let Some(why) = &member.quarantine {
        let cause =
            format!("{name} is stopped because the same thing failed again and again: {why}");
        let remedy = format!("pgctl disable-maintenance {name}");
        find("quarantine", cause, remedy);
    } else if member.maintenance {
        let cause = format!("{name} is in maintenance: its Postgres is stopped on purpose");
        find("maintenance", cause, format!("pgctl disable-maintenance {name}"));
    }
    let leads = group.rule().is_some_and(|r| r.primary == member.id);
    if leads && facts.is_flapping(&group.settings, now) {
        let cause = format!(
            "{} failovers have begun by themselves within {} s: the next one waits",
            group.settings.max_failovers,
            group.settings.failover_window_ms / 1000
        );
        find("failovers_limited", cause, "pgctl perform-failover".to_owned());
    }
    if member.candidate_priority == 0 {
        let cause = format!("{name} has candidate priority 0 and is never elected");
        find("priority_0", cause, format!("pgctl set-node {name} --candidate-priority 50"));
    }
    if let Some(cause) = holds_up(group, facts, member, now) {
        find("election_waits", cause, remedy_of_waiting(group, facts, member, now));
    }
    found
}

/// How an election, or its beginning, waits for this node.
fn holds_up(group: &Group, facts: &Facts, member: &Member, now: Now) -> Option<String> {
    let name = &member.name;
    if group.plan == Plan::Recovering {
        let awaited = awaited_in_recovery(group, facts, now).into_iter().any(|id| id == member.id);
        return awaited.then(|| {
            format!("this monitor's record is old, and {name}, which may know better, is not heard")
        });
    }
    if let Plan::Serving { .. } = group.plan {
        let rule = group.rule()?;
        let Verdict::Lost { .. } = judge(group, facts, rule, now) else { return None };
        let lacking = can_be_won(group, facts, now).err()?;
        return lacking.contains(&member.id).then(|| {
            format!(
                "the lost primary cannot be replaced: {name} may hold commits that nobody else has"
            )
        });
    }
    let Election::Wait(wait) = current_election(group, facts, now)? else { return None };
    let WaitFor::Pledges(short) = &wait else { return None };
    let concerned = |s: &Shortfall| s.primary == member.id || s.silent.contains(&member.id);
    let (what, who) = waiting_words(group, &wait);
    short.iter().any(concerned).then(|| format!("the election waits for {what}: {who}"))
}

/// What would give an election the word of a node that it waits for.
fn remedy_of_waiting(group: &Group, facts: &Facts, member: &Member, now: Now) -> String {
    let name = &member.name;
    let Some(report) = facts.fresh(member.id, &group.settings, now) else {
        return format!(
            "start {name}; if it is lost for good: pgctl perform-failover --allow-data-loss"
        );
    };
    match (&report.not_let_in, report.server) {
        (Some(why), _) => remedy_of_barrier(member, why),
        (None, Server::Starting | Server::Standby) => {
            format!("nothing yet: {name} runs and replays its WAL; its server's log tells how far")
        }
        (None, _) => format!(
            "see the other findings of {name}, then the log of its keeper; if it is lost for good: \
             pgctl perform-failover --allow-data-loss"
        ),
    }
}

/// What its keeper cannot see, and what it sees that is wrong.
fn seen_findings(
    group: &Group,
    facts: &Facts,
    member: &Member,
    report: &Report,
    now: Now,
    find: Find,
) {
    let name = &member.name;
    if let Some(why) = report.not_let_in.as_ref().filter(|_| !sees(report)) {
        let age = match report.server {
            Server::Unknown => "since it started".to_owned(),
            _ => format!("for {} s", report.look_age_ms / 1000),
        };
        let cause = format!("{name}'s keeper could not look at its Postgres {age}: {}", why.text);
        find("not_let_in", cause, remedy_of_barrier(member, why));
    } else if !sees(report) {
        let cause = format!(
            "{name}'s keeper has not seen its Postgres for {} s",
            report.look_age_ms / 1000
        );
        find(
            "not_seen",
            cause,
            format!("see the log of {name}'s keeper, and how busy {} is", member.host),
        );
    }
    if is_starved(group, facts, report, now) {
        find_starved(group, member, report, find);
    }
    for trouble in &report.troubles {
        find_trouble(group, member, trouble, find);
    }
}

fn remedy_of_barrier(member: &Member, why: &NotLetIn) -> String {
    let (name, host) = (&member.name, &member.host);
    match why.barrier {
        Barrier::Login => format!(
            "on {host}, let superuser postgres in by the local socket: the `pgvigil` block has to \
             come first in pg_hba.conf, and: ALTER ROLE postgres LOGIN SUPERUSER"
        ),
        Barrier::Database => "CREATE DATABASE postgres".to_owned(),
        Barrier::TooManyClients => format!(
            "end sessions on {name}, or give clients fewer connections than max_connections; \
             superusers should not be clients"
        ),
        Barrier::Resources => format!("see how much memory and disk are left on {host}"),
        Barrier::Rights => "ALTER ROLE postgres SUPERUSER".to_owned(),
        Barrier::Silence => format!("see how busy {host} is, and its Postgres's log"),
        Barrier::Machine => {
            format!("mend on {host} what that says: descriptors, memory, /proc or the disk")
        }
        Barrier::Other => format!("mend on {name} what Postgres says"),
    }
}

/// A standby that runs and does not get the primary's WAL.
fn find_starved(group: &Group, member: &Member, report: &Report, find: Find) {
    let name = &member.name;
    let primary = group.rule().map_or_else(String::new, |r| group.name_of(r.primary));
    let error = report.troubles.iter().find(|t| t.kind == TroubleKind::Receiver);
    let seconds = report.starved_ms / 1000;
    let cause = match error {
        Some(Trouble { place: Some(log), text, .. }) => format!(
            "{name} has got no WAL from {primary} for {seconds} s; its receiver says, in {log}: {text}"
        ),
        Some(Trouble { text, .. }) => {
            format!("{name} has got no WAL from {primary} for {seconds} s: {text}")
        }
        None => format!("{name} has got no WAL from {primary} for {seconds} s"),
    };
    let text = error.map_or("", |t| t.text.as_str());
    find("not_streaming", cause, remedy_of_receiver(member, &primary, text));
}

/// By what the server says, in English as all servers do that keepers start; else where to look.
fn remedy_of_receiver(member: &Member, primary: &str, text: &str) -> String {
    let name = &member.name;
    let says = |words: &[&str]| words.iter().any(|w| text.contains(w));
    if says(&["password authentication failed", "is not permitted to log in", "does not exist"])
        && says(&["pgvigil_replicator", "role \""])
    {
        format!(
            "restart {primary}'s keeper: it sets the password and the rights of its replication role anew"
        )
    } else if says(&["no password supplied"]) {
        format!("restart {name}'s keeper: it writes its password file anew")
    } else if says(&["too many connections for role"]) {
        format!("on {primary}: ALTER ROLE pgvigil_replicator CONNECTION LIMIT -1")
    } else if says(&["pg_hba.conf"]) {
        format!(
            "on {primary}, move the `pgvigil` block to the top of pg_hba.conf; if {name} comes from \
             another address than {}: its keepers' --pg-hba-cidr",
            member.host
        )
    } else if says(&[
        "number of requested standby connections",
        "too many clients",
        "remaining connection slots",
    ]) {
        format!("end sessions on {primary}, or raise max_wal_senders and max_connections there")
    } else if says(&["has already been removed"]) {
        format!("nothing: {name} is copied anew by itself within two minutes")
    } else if says(&["replication slot"]) {
        format!(
            "on {primary}, free a replication slot (pg_drop_replication_slot) or raise max_replication_slots"
        )
    } else if says(&["No space left"]) {
        format!("free space on {}", member.host)
    } else if says(&["could not connect", "Connection refused", "timeout", "translate host name"]) {
        format!("see whether {name} can reach {primary}'s Postgres: names, routes, firewalls")
    } else {
        format!("see the Postgres logs of {name} and {primary}")
    }
}

fn find_trouble(group: &Group, member: &Member, trouble: &Trouble, find: Find) {
    let name = &member.name;
    let place = trouble.place.as_deref().unwrap_or_default();
    let text = &trouble.text;
    match trouble.kind {
        // A cause of its own only together with that nothing comes.
        TroubleKind::Receiver => {}
        TroubleKind::BrokenConfiguration => find(
            "broken_configuration",
            format!("{name}'s Postgres cannot use {place}: {text}"),
            format!("correct {place} on {}; then there: SELECT pg_reload_conf()", member.host),
        ),
        TroubleKind::ReplayPaused => find(
            "replay_paused",
            format!("{name} receives WAL but does not replay it: replay is paused"),
            format!("on {name}: SELECT pg_wal_replay_resume()"),
        ),
        TroubleKind::CrashLoop => find(
            "crash_loop",
            format!("{name}'s Postgres exits again and again: {text}"),
            match place {
                "" => format!("see its log on {}", member.host),
                log => format!("mend what it says; all of it is in {log} on {}", member.host),
            },
        ),
        TroubleKind::NoDatabase => find(
            "no_database",
            format!("{name} has no database postgres, in which keepers and tools work"),
            match group.rule() {
                Some(rule) => format!(
                    "on {}, in database template1: CREATE DATABASE postgres",
                    group.name_of(rule.primary)
                ),
                None => "in database template1: CREATE DATABASE postgres".to_owned(),
            },
        ),
        TroubleKind::Unknown => {
            find("trouble", format!("{name}: {text}"), format!("see the log of {name}'s keeper"));
        }
    }
}

fn node_findings(group: &Group, member: &Member, report: &Report, find: Find) {
    let name = &member.name;
    if let Some(problem) = &report.problem {
        let remedy = match problem.code.as_str() {
            "foreign_data" => "move that directory away, then restart the keeper".to_owned(),
            "standby_alone" => "start the keeper of its primary, in the same group; if this is to \
                 be the primary, remove standby.signal from its data directory, then restart its \
                 keeper"
                .to_owned(),
            Problem::STATE_NOT_SAVED => format!(
                "make room for it, or mend that disk, at {}; it tries again every second",
                member.host
            ),
            _ => format!("see the log of {name}'s keeper; it tries again by itself"),
        };
        find(&problem.code, problem.text.clone(), remedy);
    }
    if report.delayed {
        let cause = format!(
            "{name} replays late on purpose (recovery_min_apply_delay) and is never elected"
        );
        let remedy = "take that setting out of its postgresql.conf to make it a candidate";
        find("delayed", cause, remedy.to_owned());
    }
    match report.server {
        Server::Hung => find(
            "postgres_hung",
            format!("{name}'s Postgres runs but does not answer in time"),
            "the keeper kills it as soon as a standby can take over".to_owned(),
        ),
        Server::Stopped if !member.is_out() => find(
            "postgres_stopped",
            format!("{name}'s Postgres is stopped"),
            format!("its keeper starts it when it may; now: {}", group.plan.name()),
        ),
        _ => {}
    }
    let Some(doing) = report.doing.as_ref().filter(|d| d.starts_with("waiting")) else { return };
    if doing.ends_with(ABOVE_PRIMARY) {
        let cause = format!(
            "{name} was promoted outside pgvigil, or its monitor's record is old: its timeline is above the \
             primary's, and its keeper throws none of its WAL away"
        );
        let remedy = "save from it what is only there, then: pgctl perform-switchover (the timeline \
                      of the next primary is above both, so this node is rewound to it)";
        find("promoted_by_hand", cause, remedy.to_owned());
    } else if report.not_let_in.is_none() {
        find("waiting", format!("{name} is {doing}"), "nothing: it goes on by itself".to_owned());
    }
}
