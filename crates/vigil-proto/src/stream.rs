//! The two directions of a keeper's stream.

use vigil_core::message::{Hello, Order, Report, Welcome};

use crate::pb;
use crate::pb::keeper_message::Said as KeeperSaid;
use crate::pb::monitor_message::Said as MonitorSaid;
use crate::wire::BadMessage;

/// What a keeper says: a hello, then reports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeeperMessage {
    Hello(Box<Hello>),
    Report {
        /// Counts the reports of this stream; comes back in [`MonitorMessage::Heard`].
        counter: u64,
        report: Box<Report>,
    },
}

/// What the monitor says: a welcome, then an order for every decision and an answer to every
/// report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MonitorMessage {
    Welcome(Welcome),
    Order(Box<Order>),
    /// The report with this counter has been read: the monitor lives.
    Heard {
        counter: u64,
    },
}

impl From<KeeperMessage> for pb::KeeperMessage {
    fn from(message: KeeperMessage) -> Self {
        let (counter, said) = match message {
            KeeperMessage::Hello(hello) => (0, KeeperSaid::Hello((*hello).into())),
            KeeperMessage::Report { counter, report } => {
                (counter, KeeperSaid::Report((*report).into()))
            }
        };
        pb::KeeperMessage { counter, said: Some(said) }
    }
}

impl TryFrom<pb::KeeperMessage> for KeeperMessage {
    type Error = BadMessage;

    fn try_from(message: pb::KeeperMessage) -> Result<Self, BadMessage> {
        let pb::KeeperMessage { counter, said } = message;
        Ok(match said.ok_or_else(|| BadMessage::unknown().within("said"))? {
            KeeperSaid::Hello(hello) => {
                let hello = hello.try_into().map_err(|b: BadMessage| b.within("hello"))?;
                KeeperMessage::Hello(Box::new(hello))
            }
            KeeperSaid::Report(report) => {
                let report = report.try_into().map_err(|b: BadMessage| b.within("report"))?;
                KeeperMessage::Report { counter, report: Box::new(report) }
            }
        })
    }
}

impl From<MonitorMessage> for pb::MonitorMessage {
    fn from(message: MonitorMessage) -> Self {
        let said = match message {
            MonitorMessage::Welcome(welcome) => MonitorSaid::Welcome(welcome.into()),
            MonitorMessage::Order(order) => MonitorSaid::Order((*order).into()),
            MonitorMessage::Heard { counter } => MonitorSaid::Heard(pb::Heard { counter }),
        };
        pb::MonitorMessage { said: Some(said) }
    }
}

impl TryFrom<pb::MonitorMessage> for MonitorMessage {
    type Error = BadMessage;

    fn try_from(message: pb::MonitorMessage) -> Result<Self, BadMessage> {
        Ok(match message.said.ok_or_else(|| BadMessage::unknown().within("said"))? {
            MonitorSaid::Welcome(welcome) => MonitorMessage::Welcome(
                welcome.try_into().map_err(|b: BadMessage| b.within("welcome"))?,
            ),
            MonitorSaid::Order(order) => {
                let order = order.try_into().map_err(|b: BadMessage| b.within("order"))?;
                MonitorMessage::Order(Box::new(order))
            }
            MonitorSaid::Heard(pb::Heard { counter }) => MonitorMessage::Heard { counter },
        })
    }
}
