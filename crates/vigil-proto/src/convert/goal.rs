//! Goals. A kind that this version does not know is an error: guessing at one would be unsafe.

use vigil_core::message::Goal;

use crate::pb;
use crate::pb::goal as kinds;
use crate::pb::goal::Kind;
use crate::wire::{BadMessage, Wire};

impl From<Goal> for pb::Goal {
    fn from(goal: Goal) -> Self {
        let kind = match goal {
            Goal::Wait => Kind::Wait(kinds::Wait {}),
            Goal::Found { rule } => Kind::Found(kinds::Found { rule: rule.wire() }),
            Goal::Lead { rule, tli, renewal, prepare } => {
                Kind::Lead(kinds::Lead { rule: rule.wire(), tli: tli.wire(), renewal, prepare })
            }
            Goal::Follow { primary, history, open } => Kind::Follow(kinds::Follow {
                primary: primary.wire(),
                history: history.wire(),
                open,
            }),
            Goal::Pledge { await_wal, restart } => {
                Kind::Pledge(kinds::Pledge { await_wal: await_wal.wire(), restart })
            }
            Goal::FastForward { source, until } => {
                Kind::FastForward(kinds::FastForward { source: source.wire(), until: until.wire() })
            }
            Goal::Stop => Kind::Stop(kinds::Stop {}),
            Goal::Drop => Kind::Drop(kinds::Drop {}),
        };
        pb::Goal { kind: Some(kind) }
    }
}

impl TryFrom<pb::Goal> for Goal {
    type Error = BadMessage;

    fn try_from(message: pb::Goal) -> Result<Self, BadMessage> {
        Ok(match message.kind.ok_or_else(BadMessage::unknown)? {
            Kind::Wait(kinds::Wait {}) => Goal::Wait,
            Kind::Found(kinds::Found { rule }) => Goal::Found { rule: field("found.rule", rule)? },
            Kind::Lead(kinds::Lead { rule, tli, renewal, prepare }) => Goal::Lead {
                rule: field("lead.rule", rule)?,
                tli: field("lead.tli", tli)?,
                renewal,
                prepare,
            },
            Kind::Follow(kinds::Follow { primary, history, open }) => Goal::Follow {
                primary: field("follow.primary", primary)?,
                history: field("follow.history", history)?,
                open,
            },
            Kind::Pledge(kinds::Pledge { await_wal, restart }) => {
                Goal::Pledge { await_wal: field("pledge.await_wal", await_wal)?, restart }
            }
            Kind::FastForward(kinds::FastForward { source, until }) => Goal::FastForward {
                source: field("fast_forward.source", source)?,
                until: field("fast_forward.until", until)?,
            },
            Kind::Stop(kinds::Stop {}) => Goal::Stop,
            Kind::Drop(kinds::Drop {}) => Goal::Drop,
        })
    }
}

fn field<P, C: Wire<P>>(name: &str, from: P) -> Result<C, BadMessage> {
    C::read(from).map_err(|bad| bad.within(name))
}
