//! What is shown.

use vigil_core::event::Phase;
use vigil_core::view::{Alert, EventView, Finding, GroupView, NodeFindings, NodeView, Waiting};

use crate::pb;
use crate::wire::{BadMessage, Wire, message};

message! {
    GroupView {
        formation,
        group,
        plan,
        epoch,
        nodes,
        waiting_on,
        alerts,
        findings,
        writable,
        sync_expected,
        sync_observed,
        promotable_standbys,
    }
    NodeView {
        nodeid,
        nodename,
        nodehost,
        nodeport,
        formationid,
        groupid,
        reportedstate,
        goalstate,
        health,
        reportedlsn,
        reportedtli,
        candidatepriority,
        replicationquorum,
        epoch,
        lag_bytes,
        sync,
        since,
    }
    Waiting { what, who, since }
    Alert { code, text }
    NodeFindings { nodename, findings }
    Finding { code, cause, remedy }
    EventView {
        eventid,
        eventtime,
        formationid,
        groupid,
        nodeid,
        nodename,
        kind,
        epoch,
        cause,
        evidence,
        phases,
        description,
    }
    Phase { name, ms }
}

impl From<Vec<GroupView>> for pb::GroupViews {
    fn from(groups: Vec<GroupView>) -> Self {
        pb::GroupViews { groups: groups.wire() }
    }
}

impl TryFrom<pb::GroupViews> for Vec<GroupView> {
    type Error = BadMessage;

    fn try_from(message: pb::GroupViews) -> Result<Self, BadMessage> {
        Wire::read(message.groups).map_err(|bad: BadMessage| bad.within("groups"))
    }
}

impl From<Vec<EventView>> for pb::EventViews {
    fn from(events: Vec<EventView>) -> Self {
        pb::EventViews { events: events.wire() }
    }
}

impl TryFrom<pb::EventViews> for Vec<EventView> {
    type Error = BadMessage;

    fn try_from(message: pb::EventViews) -> Result<Self, BadMessage> {
        Wire::read(message.events).map_err(|bad: BadMessage| bad.within("events"))
    }
}
