//! The list: what is done, and the facts that both the model and Postgres observe.

use crate::book::Book;

pub(crate) mod commits;
pub(crate) mod promotions;
pub(crate) mod receivers;
pub(crate) mod stops;

/// One entry.
pub(crate) struct Scenario {
    pub(crate) plays: fn(&mut Book<'_>),
    pub(crate) sees: &'static [&'static str],
}
