//! What keepers and operators ask of a group, and how an operator's command is followed.

use crate::command::{Command, OperationResult, Progress, Refusal, RefusalCode};
use crate::decide::{begin_election, begin_handover, best_standby, event, is_streaming};
use crate::detect::{Verdict, judge};
use crate::election::{Election, counts};
use crate::event::{Cause, Event, EventKind, Operation};
use crate::facts::Facts;
use crate::goals::current_election;
use crate::group::{Group, Member, Plan};
use crate::ids::{Epoch, NodeId, Now};
use crate::message::{Hello, Peer, Server};
use crate::mutation::{Mutation, broken};
use crate::rule::SyncRule;
use crate::wal::Tli;

/// So many changes of the primary may have been missed by a store that goes on without having
/// heard every node.
const UNHEARD_EPOCHS: u64 = 10;

/// A command that was taken.
#[derive(Default)]
pub(crate) struct Taken {
    pub(crate) message: String,
    pub(crate) events: Vec<Event>,
    /// It is followed to its end.
    pub(crate) watch: Option<Operation>,
    /// There was nothing to do.
    pub(crate) done: Option<OperationResult>,
}

/// Registers a keeper; returns its node id. `attended(id)`: a live keeper already speaks for it.
pub(crate) fn register(
    group: &mut Group,
    hello: &Hello,
    fresh_id: NodeId,
    attended: &dyn Fn(NodeId) -> bool,
) -> Result<NodeId, Refusal> {
    if let (Some(ours), Some(theirs)) = (group.system_id, hello.system_id)
        && ours != theirs
    {
        return Err(Refusal::new(
            RefusalCode::Refused,
            format!(
                "the data directory of {} belongs to another cluster: its system identifier is \
                 {theirs}, this group's is {ours}",
                hello.name
            ),
            "point --pgdata at an empty directory, or join another --formation or --group",
        ));
    }
    let fresh_id = above_all_known(group, hello, fresh_id);
    let known =
        hello.node_id.filter(|id| group.members.get(id).is_some_and(|m| m.name == hello.name));
    if let Some(id) = known {
        if let Some(member) = group.members.get_mut(&id) {
            member.host.clone_from(&hello.host);
            member.port = hello.port;
        }
        learn(group, hello);
        return Ok(id);
    }
    if let Some(old) = group.member_named(&hello.name) {
        if attended(old.id) {
            return Err(Refusal::new(
                RefusalCode::BadValue,
                format!("the name {} is in use by a node that is alive", hello.name),
                "give this keeper another --name, or stop the other one",
            ));
        }
        // It lost its data directory or its state: a new node under the old name (DESIGN §4.5).
        let old = old.id;
        if broken(Mutation::Amnesia) {
            return Ok(old);
        }
        group.members.remove(&old);
        if group.plan == (Plan::Forming { founder: Some(old) }) {
            // Nothing was ever acknowledged: another one founds the group.
            group.rules.clear();
            group.plan = Plan::Forming { founder: None };
        }
    }
    // A keeper with an id that this record does not know: the record is older than the keeper.
    let id = match hello.node_id {
        Some(id) if hello.promise > Epoch(0) && !group.members.contains_key(&id) => id,
        _ => fresh_id,
    };
    // What an operator has set since it first joined was told to it, and is better than what its
    // command line says.
    let told = hello.peers.iter().find(|p| Some(p.id) == hello.node_id && p.id == id);
    let own = Peer {
        id,
        name: hello.name.clone(),
        host: hello.host.clone(),
        port: hello.port,
        candidate_priority: told.map_or(hello.candidate_priority, |p| p.candidate_priority),
        replication_quorum: told.map_or(hello.replication_quorum, |p| p.replication_quorum),
        maintenance: told.is_some_and(|p| p.maintenance),
    };
    group.members.insert(id, Member::from_peer(&own));
    learn(group, hello);
    Ok(id)
}

/// A store that was lost counts its node ids from the beginning again; the keepers remember. A
/// negative id stands for none.
fn above_all_known(group: &Group, hello: &Hello, fresh_id: NodeId) -> NodeId {
    let named = |r: &SyncRule| r.members.iter().copied().chain([r.primary]).max();
    let members = group.members.keys().copied().max();
    let rules = group.rules.iter().chain(&hello.rules_held).filter_map(named).max();
    let told = hello.peers.iter().map(|p| p.id).max();
    let highest = members.max(rules).max(told).unwrap_or(NodeId(0));
    if fresh_id < NodeId(0) { fresh_id } else { fresh_id.max(NodeId(highest.0 + 1)) }
}

/// DESIGN §4.19: what a keeper has fsynced may be newer than the store. A keeper holds S whole, as
/// some order carried it: what is missing from a later S than ours was covered since.
fn learn(group: &mut Group, hello: &Hello) {
    let newest = hello.rules_held.iter().max_by_key(|rule| rule.id());
    let theirs = newest.map(SyncRule::id);
    let ours = group.rule().map(SyncRule::id);
    if hello.promise <= group.epoch && theirs <= ours || broken(Mutation::OldStoreTrusted) {
        if theirs == ours && group.plan == Plan::Recovering {
            group.rules.retain(|rule| hello.rules_held.contains(rule));
        }
        return;
    }
    let known = group.rule().map_or(Epoch(0), |rule| rule.epoch);
    group.epoch = group.epoch.max(hello.promise);
    if let Some(newest) = newest.filter(|_| theirs > ours) {
        group.rules.clone_from(&hello.rules_held);
        group.rules.sort_by_key(SyncRule::id);
        group.epoch = group.epoch.max(newest.epoch);
        group.last_rule_version = group.last_rule_version.max(newest.version);
    } else if let Plan::Forming { .. } = group.plan {
        // The group exists already: whoever was about to found it has nothing to lead.
        group.rules.clear();
    }
    for peer in &hello.peers {
        let taken = group.member_named(&peer.name).is_some();
        if !taken && !group.members.contains_key(&peer.id) {
            group.members.insert(peer.id, Member::from_peer(peer));
        }
    }
    if let Some(settings) = hello.settings
        && hello.promise >= group.epoch
    {
        group.settings = settings;
    }
    // An epoch assigns one timeline at most: whatever was assigned in those whose winners this
    // store does not know, the next one is above.
    skip_timelines(group, group.epoch.0.saturating_sub(known.0));
    group.plan = Plan::Recovering;
    group.episode = None;
}

fn skip_timelines(group: &mut Group, count: u64) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    // The founder's is the first, told or not.
    group.last_tli = Tli(group.last_tli.0.max(1).saturating_add(count));
}

/// Checks a command and carries its first act out on the record.
pub(crate) fn take(
    group: &mut Group,
    facts: &Facts,
    command: &Command,
    now: Now,
) -> Result<Taken, Refusal> {
    match command {
        Command::Failover { allow_data_loss } => failover(group, facts, *allow_data_loss, now),
        Command::Switchover { to } => {
            switchover(group, facts, to.as_deref(), Operation::Switchover, now)
        }
        Command::Promotion { node } => {
            let id = named(group, node)?.id;
            if let Plan::Serving { primary } = group.plan
                && primary == id
            {
                let message = format!("{node} is the primary already");
                let done = Some(result(group, Operation::Promotion, Some(id), 0, Vec::new()));
                return Ok(Taken { message, done, ..Taken::default() });
            }
            switchover(group, facts, Some(node), Operation::Promotion, now)
        }
        Command::SetNode { node, candidate_priority, replication_quorum } => {
            set_node(group, node, *candidate_priority, *replication_quorum)
        }
        Command::SetSettings { number_sync_standbys, heartbeat_interval_ms, heartbeat_misses } => {
            set_settings(group, *number_sync_standbys, *heartbeat_interval_ms, *heartbeat_misses)
        }
        Command::EnableMaintenance { node, allow_failover } => {
            enable_maintenance(group, facts, node, *allow_failover, now)
        }
        Command::DisableMaintenance { node } => {
            let id = named(group, node)?.id;
            let member = member_mut(group, id)?;
            let (kind, text) = match (member.maintenance, &member.quarantine) {
                (_, Some(why)) => (
                    EventKind::Quarantine,
                    format!("{node} leaves quarantine, it was in for: {why}"),
                ),
                (true, None) => (EventKind::Maintenance, format!("{node} leaves maintenance")),
                (false, None) => {
                    return Err(refused(format!("{node} is not in maintenance"), ""));
                }
            };
            member.maintenance = false;
            member.quarantine = None;
            let events = vec![event(group, kind, Some(id), text.clone())];
            Ok(Taken { message: text, events, ..Taken::default() })
        }
        Command::DropNode { node, force } => drop_node(group, facts, node, *force, now),
    }
}

fn refused(message: impl Into<String>, hint: &str) -> Refusal {
    Refusal::new(RefusalCode::Refused, message, hint)
}

fn named<'a>(group: &'a Group, name: &str) -> Result<&'a Member, Refusal> {
    group.member_named(name).ok_or_else(|| {
        let names = group.names_of(group.members.keys().copied());
        Refusal::new(
            RefusalCode::NotFound,
            format!("no node {name} in {}", group.key),
            format!("its nodes are: {names}"),
        )
    })
}

fn member_mut(group: &mut Group, id: NodeId) -> Result<&mut Member, Refusal> {
    group
        .members
        .get_mut(&id)
        .ok_or_else(|| Refusal::new(RefusalCode::NotFound, "no such node", "pgctl show-state"))
}

/// Only one change of the primary at a time.
fn must_be_serving(group: &Group) -> Result<NodeId, Refusal> {
    match group.plan {
        Plan::Serving { primary } if group.episode.is_none() => Ok(primary),
        Plan::Serving { .. } => Err(refused(
            "a change of the primary is not finished: its sync rule is not confirmed yet",
            "wait for it: pgctl explain",
        )),
        _ => Err(refused(
            format!("a change of the primary is under way ({})", group.plan.name()),
            "wait until it has ended: pgctl show-state",
        )),
    }
}

fn failover(
    group: &mut Group,
    facts: &Facts,
    allow_data_loss: bool,
    now: Now,
) -> Result<Taken, Refusal> {
    let planned = matches!(group.plan, Plan::Electing { handover: Some(_), .. });
    if let Plan::Electing { accept_loss, handover, .. } = &mut group.plan
        && (!planned || allow_data_loss)
    {
        if !allow_data_loss {
            let hint = "pgctl explain says for whom; --allow-data-loss goes on without them";
            return Err(refused("an election is under way and waits", hint));
        }
        *handover = None;
        *accept_loss = true;
        if let Some(episode) = &mut group.episode {
            episode.operation = Some(Operation::Failover);
            episode.evidence.push("an operator accepts the loss of data".to_owned());
        }
        return Ok(Taken {
            message: "data loss accepted".to_owned(),
            watch: Some(Operation::Failover),
            ..Taken::default()
        });
    }
    if group.plan == Plan::Recovering && allow_data_loss {
        // Nodes that are not heard may have seen epochs and timelines that nobody here knows of.
        group.epoch = Epoch(group.epoch.0 + UNHEARD_EPOCHS);
        skip_timelines(group, UNHEARD_EPOCHS);
        let evidence = vec!["an operator goes on without the nodes not heard".to_owned()];
        let operation = Some(Operation::Failover);
        begin_election(group, facts, Cause::Recovery, evidence, operation, None, now);
        if let Plan::Electing { accept_loss, .. } = &mut group.plan {
            *accept_loss = true;
        }
        return Ok(Taken {
            message: "election begun, data loss accepted".to_owned(),
            watch: operation,
            ..Taken::default()
        });
    }
    let serving = matches!(group.plan, Plan::Serving { .. });
    // A winner that is gone for good while it is being promoted is given up as a primary is.
    let open = serving || allow_data_loss && matches!(group.plan, Plan::Promoting { .. });
    let verdict = group.rule().map(|rule| judge(group, facts, rule, now));
    match (open, verdict) {
        (true, Some(Verdict::Fine)) if serving => {
            switchover(group, facts, None, Operation::Failover, now)
        }
        (true, Some(verdict)) if verdict != Verdict::Fine && has_others(group) => {
            let evidence = vec!["an operator's command: the primary is not healthy".to_owned()];
            let operation = Some(Operation::Failover);
            begin_election(group, facts, Cause::Operator, evidence, operation, None, now);
            if let Plan::Electing { accept_loss, .. } = &mut group.plan {
                *accept_loss = allow_data_loss;
            }
            Ok(Taken { message: "election begun".to_owned(), watch: operation, ..Taken::default() })
        }
        (true, _) if serving => Err(refused("there is no node to fail over to", "add a standby")),
        _ => must_be_serving(group).map(|_| Taken::default()),
    }
}

/// Whether there is anybody but the primary.
fn has_others(group: &Group) -> bool {
    group.members.keys().any(|id| group.primary() != Some(*id))
}

fn switchover(
    group: &mut Group,
    facts: &Facts,
    to: Option<&str>,
    operation: Operation,
    now: Now,
) -> Result<Taken, Refusal> {
    let wanted = to.map(|name| named(group, name).map(|m| m.id)).transpose()?;
    let primary = must_be_serving(group)?;
    let Some(rule) = group.rule().cloned() else {
        return Err(refused("the group has no primary yet", ""));
    };
    if wanted == Some(primary) {
        let name = group.name_of(primary);
        return Err(refused(format!("{name} is the primary already"), "name a standby"));
    }
    if judge(group, facts, &rule, now) != Verdict::Fine {
        let name = group.name_of(primary);
        let hint = "pgctl perform-failover elects without it";
        return Err(refused(format!("{name}, the primary, is not healthy"), hint));
    }
    let to = match wanted {
        Some(id) => {
            fit_for_handover(group, facts, id, now)?;
            id
        }
        None => best_standby(group, facts, now).ok_or_else(|| {
            refused("no standby can take over now", "pgctl explain says why for each")
        })?,
    };
    begin_handover(group, primary, to, Cause::Operator, Some(operation), now);
    let message = format!("{} hands over to {}", group.name_of(primary), group.name_of(to));
    Ok(Taken { message, watch: Some(operation), ..Taken::default() })
}

/// Lag above which a switchover would keep clients waiting, in bytes.
const HANDOVER_LAG: u64 = 16 * 1024 * 1024;

fn fit_for_handover(group: &Group, facts: &Facts, id: NodeId, now: Now) -> Result<(), Refusal> {
    let (Some(member), Some(rule)) = (group.members.get(&id), group.rule()) else { return Ok(()) };
    let name = &member.name;
    if member.is_out() {
        let hint = format!("pgctl disable-maintenance {name}");
        let what = if member.maintenance { "maintenance" } else { "quarantine" };
        return Err(refused(format!("{name} is in {what}"), &hint));
    }
    if facts.report(id).is_some_and(|r| r.delayed) {
        let text = format!("{name} replays late on purpose (recovery_min_apply_delay)");
        return Err(refused(text, "name another standby"));
    }
    if member.candidate_priority == 0 {
        let hint = format!("pgctl set-node {name} --candidate-priority 50");
        return Err(refused(format!("{name} has candidate priority 0"), &hint));
    }
    if !is_streaming(group, facts, rule, id, now) {
        let hint = format!("pgctl explain {name}");
        return Err(refused(format!("{name} does not stream from the primary"), &hint));
    }
    let end = |id| facts.report(id).and_then(|r| r.position).map_or(0, |p| p.lsn.0);
    let lag = end(rule.primary).saturating_sub(end(id));
    if lag > HANDOVER_LAG {
        return Err(refused(
            format!("{name} is {lag} bytes behind"),
            "wait until it has caught up",
        ));
    }
    Ok(())
}

fn set_node(
    group: &mut Group,
    node: &str,
    priority: Option<u32>,
    quorum: Option<bool>,
) -> Result<Taken, Refusal> {
    let id = named(group, node)?.id;
    if priority.is_some_and(|p| p > 100) {
        return Err(Refusal::new(
            RefusalCode::BadValue,
            format!("candidate priority {} is out of range", priority.unwrap_or(0)),
            "give a number from 0 to 100",
        ));
    }
    if quorum == Some(false) {
        enough_without(group, id)?;
    }
    let member = member_mut(group, id)?;
    member.candidate_priority = priority.unwrap_or(member.candidate_priority);
    member.replication_quorum = quorum.unwrap_or(member.replication_quorum);
    let text = format!(
        "{node}: candidate priority {}, replication quorum {}",
        member.candidate_priority, member.replication_quorum
    );
    let events = vec![event(group, EventKind::Setting, Some(id), text.clone())];
    Ok(Taken { message: text, events, ..Taken::default() })
}

/// Whether as many standbys as number-sync-standbys asks for could still be counted without node
/// `id`, whoever of the others is the primary. With fewer, every commit would block.
fn enough_without(group: &Group, id: NodeId) -> Result<(), Refusal> {
    let k = group.settings.number_sync_standbys as usize;
    let left = group.members.values().filter(|m| m.id != id && counts(m)).count();
    let counted_now = group.members.get(&id).is_some_and(counts);
    if k == 0 || left > k || !counted_now {
        return Ok(());
    }
    let formation = &group.key.formation;
    Err(refused(
        format!("number-sync-standbys is {k}: too few counted nodes would be left"),
        &format!(
            "lower it first: pgctl set-formation --formation {formation} --number-sync-standbys {}",
            left.saturating_sub(1)
        ),
    ))
}

fn set_settings(
    group: &mut Group,
    sync: Option<u32>,
    interval_ms: Option<u64>,
    misses: Option<u32>,
) -> Result<Taken, Refusal> {
    if let Some(k) = sync {
        let counted = group.members.values().filter(|m| counts(m)).count();
        if k as usize > counted.saturating_sub(1) && k > 0 {
            return Err(refused(
                format!(
                    "number-sync-standbys {k} needs {k} counted standbys, there are {}",
                    counted.saturating_sub(1)
                ),
                "add standbys with replication-quorum true first",
            ));
        }
    }
    if interval_ms.is_some_and(|ms| !(100..=60_000).contains(&ms)) {
        return Err(Refusal::new(
            RefusalCode::BadValue,
            "the heartbeat interval is out of range",
            "give 100ms to 60s",
        ));
    }
    if misses.is_some_and(|n| !(2..=100).contains(&n)) {
        return Err(Refusal::new(
            RefusalCode::BadValue,
            "the number of heartbeat misses is out of range",
            "give 2 to 100",
        ));
    }
    let settings = &mut group.settings;
    settings.number_sync_standbys = sync.unwrap_or(settings.number_sync_standbys);
    settings.heartbeat_interval_ms = interval_ms.unwrap_or(settings.heartbeat_interval_ms);
    settings.heartbeat_misses = misses.unwrap_or(settings.heartbeat_misses);
    let text = format!(
        "number-sync-standbys {}, heartbeat {} ms × {}",
        settings.number_sync_standbys, settings.heartbeat_interval_ms, settings.heartbeat_misses
    );
    let events = vec![event(group, EventKind::Setting, None, text.clone())];
    Ok(Taken { message: text, events, ..Taken::default() })
}

fn enable_maintenance(
    group: &mut Group,
    facts: &Facts,
    node: &str,
    allow_failover: bool,
    now: Now,
) -> Result<Taken, Refusal> {
    let id = named(group, node)?.id;
    if let Some(why) = group.members.get(&id).and_then(|m| m.quarantine.as_ref()) {
        let hint = format!("pgctl disable-maintenance {node}");
        return Err(refused(format!("{node} is in quarantine: {why}"), &hint));
    }
    if group.members.get(&id).is_some_and(|m| m.maintenance) {
        return Err(refused(format!("{node} is in maintenance already"), ""));
    }
    if group.rule().is_some_and(|r| r.primary == id) {
        if !allow_failover {
            let hint = format!("pgctl enable-maintenance {node} --allow-failover");
            return Err(refused(format!("{node} is the primary"), &hint));
        }
        enough_without(group, id)?;
        let taken = switchover(group, facts, None, Operation::Switchover, now)?;
        if let Some(episode) = &mut group.episode {
            episode.then_maintenance = true;
        }
        let message = format!("{}, then enters maintenance", taken.message);
        return Ok(Taken { message, watch: None, ..taken });
    }
    enough_without(group, id)?;
    member_mut(group, id)?.maintenance = true;
    let text = format!("{node} enters maintenance");
    let events = vec![event(group, EventKind::Maintenance, Some(id), text.clone())];
    Ok(Taken { message: text, events, ..Taken::default() })
}

fn drop_node(
    group: &mut Group,
    facts: &Facts,
    node: &str,
    force: bool,
    now: Now,
) -> Result<Taken, Refusal> {
    let id = named(group, node)?.id;
    let last = group.members.len() == 1;
    if group.rule().is_some_and(|r| r.primary == id) && !last {
        let hint = match group.plan {
            Plan::Serving { .. } => "pgctl perform-switchover first",
            _ => "pgctl perform-failover --allow-data-loss makes another node the primary",
        };
        return Err(refused(format!("{node} is the primary"), hint));
    }
    let attended = facts.is_reachable(id, &group.settings, now)
        && facts.node(id).is_some_and(|n| n.stream.is_some());
    if !attended && !force {
        let hint = format!("pgctl drop-node {node} --force");
        return Err(refused(format!("{node} cannot be told: its keeper is not there"), &hint));
    }
    if !force && !last {
        enough_without(group, id)?;
    }
    let text = format!("{node} is dropped");
    let events = vec![event(group, EventKind::Node, Some(id), text.clone())];
    if attended {
        member_mut(group, id)?.dropped = true;
    } else {
        group.remove_member(id);
    }
    Ok(Taken { message: text, events, ..Taken::default() })
}

fn result(
    group: &Group,
    operation: Operation,
    from: Option<NodeId>,
    outage_ms: u64,
    phases: Vec<crate::event::Phase>,
) -> OperationResult {
    let to = group.rule().map(|r| r.primary);
    let member = to.and_then(|id| group.members.get(&id));
    OperationResult {
        operation: operation.as_str().to_owned(),
        formationid: group.key.formation.clone(),
        groupid: group.key.group,
        epoch: group.epoch.0,
        from: from.map(|id| group.name_of(id)),
        to: member.map(|m| m.name.clone()).unwrap_or_default(),
        host: member.map(|m| m.host.clone()).unwrap_or_default(),
        port: member.map_or(0, |m| m.port),
        outage_ms,
        phases,
    }
}

/// Somebody waits for an operation to end.
#[derive(Clone)]
pub(crate) struct Watcher {
    pub(crate) id: u64,
    operation: Operation,
    from: Option<NodeId>,
    phases_told: usize,
    waiting_told: Option<(String, String)>,
    /// The episode as last seen: its end takes it out of the record.
    last: Option<crate::event::Episode>,
    began: Now,
}

impl Watcher {
    pub(crate) fn new(id: u64, operation: Operation, group: &Group, now: Now) -> Self {
        let from = group.episode.as_ref().and_then(|e| e.from);
        Watcher {
            id,
            operation,
            from,
            phases_told: 0,
            waiting_told: None,
            last: group.episode.clone(),
            began: now,
        }
    }

    /// Tells what is new. Returns false when the operation has ended.
    pub(crate) fn look(
        &mut self,
        group: &Group,
        facts: &Facts,
        now: Now,
        events: &[Event],
        out: &mut Vec<Progress>,
    ) -> bool {
        if let Some(episode) = &group.episode {
            self.last = Some(episode.clone());
            self.tell_phases(episode.phases(), out);
            self.tell_waiting(group, facts, now, out);
            return true;
        }
        let Plan::Serving { primary } = group.plan else { return true };
        // The closing event carries the phases that came with the end.
        let closing = events.iter().rev().find(|e| !e.phases.is_empty());
        let phases = closing.map_or_else(
            || self.last.as_ref().map(crate::event::Episode::phases).unwrap_or_default(),
            |e| e.phases.clone(),
        );
        self.tell_phases(phases.clone(), out);
        let mut last = self.last.clone();
        if let Some(episode) = &mut last {
            episode.mark("end", now.wall_ms);
        }
        let outage_ms = last.map_or(now.mono_ms - self.began.mono_ms, |e| e.outage_ms());
        let result = result(group, self.operation, self.from, outage_ms, phases);
        out.push(if self.from == Some(primary) {
            Progress::RolledBack(result)
        } else {
            Progress::Done(result)
        });
        false
    }

    fn tell_phases(&mut self, phases: Vec<crate::event::Phase>, out: &mut Vec<Progress>) {
        let told = self.phases_told;
        self.phases_told = told.max(phases.len());
        out.extend(phases.into_iter().skip(told).map(Progress::Phase));
    }

    fn tell_waiting(&mut self, group: &Group, facts: &Facts, now: Now, out: &mut Vec<Progress>) {
        let waits = match (&group.plan, current_election(group, facts, now)) {
            (_, Some(Election::Wait(wait))) => crate::decide::waiting_words(group, &wait),
            (Plan::Handover { from, .. }, _) => {
                ("checkpoints before the handover".to_owned(), group.name_of(*from))
            }
            (Plan::Promoting { winner, .. }, _) => {
                ("the winner to be writable".to_owned(), group.name_of(*winner))
            }
            (Plan::Serving { primary }, _) => {
                let down = facts.report(*primary).is_none_or(|r| r.server != Server::Primary);
                let what = if down { "the primary" } else { "a standby to confirm the sync rule" };
                (what.to_owned(), group.name_of(*primary))
            }
            _ => return,
        };
        if self.waiting_told.as_ref() != Some(&waits) {
            self.waiting_told = Some(waits.clone());
            out.push(Progress::Waiting { what: waits.0, who: waits.1 });
        }
    }
}
