//! Is the primary lost? First-hand evidence acts at once; absence needs corroboration; a broken
//! stream alone is a hint.

use crate::event::Cause;
use crate::facts::{Facts, Reach};
use crate::group::Group;
use crate::ids::{NodeId, Now};
use crate::message::Server;
use crate::mutation::{Mutation, broken};
use crate::rule::SyncRule;

/// What is known of the primary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Fine,
    /// Not heard of, but a member vouches or the deadline is not over.
    Suspect {
        why: String,
    },
    /// The monitor has not heard enough since it started or woke up.
    Unknown,
    Lost {
        cause: Cause,
        evidence: Vec<String>,
    },
}

/// Judges the primary of `rule`.
pub fn judge(group: &Group, facts: &Facts, rule: &SyncRule, now: Now) -> Verdict {
    let primary = rule.primary;
    let name = group.name_of(primary);
    let lost = |cause, evidence: String| Verdict::Lost { cause, evidence: vec![evidence] };
    if facts.is_drowsy(&group.settings, now) {
        return Verdict::Unknown;
    }
    match facts.reach(primary, &group.settings, now) {
        Reach::Unknown => return Verdict::Unknown,
        Reach::Unreachable => return absent(group, facts, rule, now),
        Reach::Reachable => {}
    }
    let Some(node) = facts.node(primary) else { return Verdict::Unknown };
    if let Some(closed) = node.closed_ms {
        return closed_everywhere(group, facts, rule, closed, now);
    }
    // Heard, but not on this stream yet.
    let Some(report) = &node.report else { return Verdict::Unknown };
    let led = report.own_rule.as_ref().is_some_and(|own| own.epoch == rule.epoch);
    match report.server {
        Server::Primary if led => Verdict::Fine,
        Server::Primary => Verdict::Suspect { why: format!("{name} serves an older epoch") },
        Server::Stopped | Server::NoData => {
            lost(Cause::PostgresDown, format!("{name}'s keeper: no process of Postgres lives"))
        }
        Server::Hung => {
            lost(Cause::PostgresHung, format!("{name}'s keeper: the write probe does not end"))
        }
        Server::Standby | Server::Starting => {
            lost(Cause::NotPrimary, format!("{name}'s keeper: Postgres was started as a standby"))
        }
        Server::Unknown => {
            Verdict::Suspect { why: format!("{name}'s Postgres is being looked at") }
        }
    }
}

/// The stream to the primary has ended: if every member that can be asked has lost it as well,
/// its end is the explanation; if one still receives, only the keeper or the link is gone.
fn closed_everywhere(
    group: &Group,
    facts: &Facts,
    rule: &SyncRule,
    closed_ms: u64,
    now: Now,
) -> Verdict {
    let name = group.name_of(rule.primary);
    let mut agree = Vec::new();
    for id in group.members.keys().filter(|id| **id != rule.primary) {
        let Some(report) = facts.fresh(*id, &group.settings, now) else { continue };
        let asked = facts.node(*id).and_then(|n| n.heard_ms).is_some_and(|ms| ms >= closed_ms);
        let receives = report.following.is_some_and(|f| f.primary == rule.primary && f.streaming);
        if !asked || receives {
            let why = format!("the stream of {name} was closed, others may still receive from it");
            return Verdict::Suspect { why };
        }
        if rule.members.contains(id) {
            agree.push(format!("{}: receives nothing from {name} any more", group.name_of(*id)));
        }
    }
    if agree.is_empty() {
        return Verdict::Suspect { why: format!("the stream of {name} was closed") };
    }
    agree.insert(0, format!("monitor: the stream of {name} was closed"));
    Verdict::Lost { cause: Cause::ConnectionsClosed, evidence: agree }
}

/// It takes so long at most until WAL that has come is known here, beside the half heartbeat until
/// a keeper looks, in milliseconds.
const TOLD_MS: u64 = 300;

/// Nothing heard for the deadline. A member vouches if it has got WAL from this primary within
/// about one heartbeat: the primary's probe makes WAL move also on an idle server, so WAL that
/// moves proves more than a connection that is open. A primary that is cut off goes on with the
/// heartbeat that it heard of last.
fn absent(group: &Group, facts: &Facts, rule: &SyncRule, now: Now) -> Verdict {
    let settings = &group.settings;
    let name = group.name_of(rule.primary);
    let vouch_ms = facts.interval_ms(rule.primary, settings) * 3 / 2 + TOLD_MS;
    let silence_ms = facts.silence_ms(rule.primary, settings);
    let mut evidence = vec![format!("monitor: nothing heard from {name} for {silence_ms} ms")];
    for id in group.members.keys().filter(|id| **id != rule.primary) {
        if may_still_speak(group, facts, *id, now) {
            let why = format!(
                "nothing heard from {name}, but {} has just come and was not asked yet",
                group.name_of(*id)
            );
            return Verdict::Suspect { why };
        }
        let Some(report) = facts.fresh(*id, settings, now) else { continue };
        let heard = facts.node(*id).and_then(|n| n.heard_ms).unwrap_or(0);
        let report_age_ms = now.mono_ms.saturating_sub(heard);
        let witness = group.name_of(*id);
        match report.following.filter(|f| f.primary == rule.primary && f.streaming) {
            Some(f)
                if f.wal_age_ms.saturating_add(report_age_ms) <= vouch_ms
                    && !broken(Mutation::SilenceConvicts) =>
            {
                let why = format!("nothing heard from {name}, but {witness} still gets its WAL");
                return Verdict::Suspect { why };
            }
            Some(f) => evidence.push(format!(
                "{witness}: no WAL from {name} for {} ms",
                f.wal_age_ms.saturating_add(report_age_ms)
            )),
            None => evidence.push(format!("{witness}: does not receive from {name}")),
        }
    }
    Verdict::Lost { cause: Cause::Unreachable, evidence }
}

/// Nodes that come to a monitor that has just started, or whose link is mended, come together
/// within about so long, in milliseconds.
const TOGETHER_MS: u64 = 300;

/// Whether a member has introduced itself and its word is still to come, or the primary may come
/// right behind it. For a deadline at most: then it has been asked often enough.
fn may_still_speak(group: &Group, facts: &Facts, id: NodeId, now: Now) -> bool {
    let settings = &group.settings;
    let Some(node) = facts.node(id).filter(|n| n.stream.is_some()) else { return false };
    let Some(greeted_ms) = node.greeted_ms.filter(|_| !broken(Mutation::UnaskedConvicts)) else {
        return false;
    };
    let ago_ms = now.mono_ms.saturating_sub(greeted_ms);
    let unasked = node.report.is_none() && facts.is_reachable(id, settings, now);
    ago_ms <= TOGETHER_MS || unasked && ago_ms <= facts.silence_ms(id, settings)
}

/// Whether an election could be won with the nodes that can be reached: for every rule in flight
/// its primary, or enough of its members. Beginning one that cannot be won would only stop what
/// still runs.
///
/// # Errors
/// Whom it lacks.
pub fn can_be_won(group: &Group, facts: &Facts, now: Now) -> Result<(), Vec<NodeId>> {
    let reachable = |id: &NodeId| facts.is_reachable(*id, &group.settings, now);
    for rule in &group.rules {
        let members = rule.members.iter().filter(|id| reachable(id)).count();
        let enough = !rule.is_async() && members >= rule.pledges_needed();
        if !enough && !reachable(&rule.primary) {
            let mut lacking = vec![rule.primary];
            lacking.extend(rule.members.iter().filter(|id| !reachable(id)));
            return Err(lacking);
        }
    }
    Ok(())
}
