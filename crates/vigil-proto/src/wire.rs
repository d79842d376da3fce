//! How one value becomes a field of a message and back. [`Wire`] is implemented once per kind of
//! field; the macros then write the conversions of whole messages from the list of their fields.

use std::collections::BTreeSet;

use vigil_core::ids::{Epoch, NodeId, Secret};
use vigil_core::wal::{Lsn, Tli};

/// A message that this version does not understand.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("message not understood: `{field}` {problem}")]
pub struct BadMessage {
    /// Where in the message, such as `goal.lead.rule`.
    pub field: String,
    /// `is missing`, `has an unknown value`.
    pub problem: &'static str,
}

impl BadMessage {
    pub(crate) fn missing() -> Self {
        BadMessage { field: String::new(), problem: "is missing" }
    }

    pub(crate) fn unknown() -> Self {
        BadMessage { field: String::new(), problem: "has an unknown value" }
    }

    /// Says in which field of the enclosing message it happened.
    pub(crate) fn within(mut self, field: &str) -> Self {
        self.field = match self.field.as_str() {
            "" => field.to_owned(),
            inner => format!("{field}.{inner}"),
        };
        self
    }
}

impl From<BadMessage> for tonic::Status {
    fn from(bad: BadMessage) -> Self {
        tonic::Status::invalid_argument(bad.to_string())
    }
}

/// A core value that is carried as a `P`.
pub(crate) trait Wire<P>: Sized {
    fn wire(self) -> P;
    fn read(from: P) -> Result<Self, BadMessage>;
}

macro_rules! as_it_is {
    ($($scalar:ty),*) => {$(
        impl Wire<$scalar> for $scalar {
            fn wire(self) -> $scalar {
                self
            }
            fn read(from: $scalar) -> Result<Self, BadMessage> {
                Ok(from)
            }
        }
    )*};
}
as_it_is!(bool, i32, i64, u32, u64, String);

impl Wire<String> for Secret {
    fn wire(self) -> String {
        self.reveal().to_owned()
    }
    fn read(from: String) -> Result<Self, BadMessage> {
        Ok(from.into())
    }
}

macro_rules! newtype {
    ($($name:ident($inner:ty)),*) => {$(
        impl Wire<$inner> for $name {
            fn wire(self) -> $inner {
                self.0
            }
            fn read(from: $inner) -> Result<Self, BadMessage> {
                Ok($name(from))
            }
        }
    )*};
}
newtype!(NodeId(i64), Epoch(u64), Lsn(u64), Tli(u32));

/// Ports: there is no 16-bit number on the wire.
impl Wire<u32> for u16 {
    fn wire(self) -> u32 {
        self.into()
    }
    fn read(from: u32) -> Result<Self, BadMessage> {
        u16::try_from(from).map_err(|_| BadMessage::unknown())
    }
}

impl<P, C: Wire<P>> Wire<Option<P>> for Option<C> {
    fn wire(self) -> Option<P> {
        self.map(C::wire)
    }
    fn read(from: Option<P>) -> Result<Self, BadMessage> {
        from.map(C::read).transpose()
    }
}

impl<P, C: Wire<P>> Wire<Vec<P>> for Vec<C> {
    fn wire(self) -> Vec<P> {
        self.into_iter().map(C::wire).collect()
    }
    fn read(from: Vec<P>) -> Result<Self, BadMessage> {
        from.into_iter().map(C::read).collect()
    }
}

impl<P, C: Wire<P> + Ord> Wire<Vec<P>> for BTreeSet<C> {
    fn wire(self) -> Vec<P> {
        self.into_iter().map(C::wire).collect()
    }
    fn read(from: Vec<P>) -> Result<Self, BadMessage> {
        from.into_iter().map(C::read).collect()
    }
}

/// The conversions of a struct whose message has the same name and fields. Both sides are taken
/// apart whole, so that a field that only one side has does not compile. Where the message is a
/// field itself it must be present, unless the core says `Option`.
macro_rules! message {
    ($($name:ident { $($field:ident),* $(,)? })*) => {$(
        impl From<$name> for pb::$name {
            fn from(value: $name) -> Self {
                let $name { $($field),* } = value;
                pb::$name { $($field: crate::wire::Wire::wire($field)),* }
            }
        }

        impl TryFrom<pb::$name> for $name {
            type Error = BadMessage;

            fn try_from(message: pb::$name) -> Result<Self, BadMessage> {
                let pb::$name { $($field),* } = message;
                Ok($name {
                    $($field: crate::wire::Wire::read($field)
                        .map_err(|bad: BadMessage| bad.within(stringify!($field)))?),*
                })
            }
        }

        crate::wire::wired!($name);
    )*};
}
pub(crate) use message;

/// Makes a pair of types with conversions usable as fields of others.
macro_rules! wired {
    ($($name:ident),*) => {$(
        impl crate::wire::Wire<pb::$name> for $name {
            fn wire(self) -> pb::$name {
                self.into()
            }
            fn read(from: pb::$name) -> Result<Self, BadMessage> {
                from.try_into()
            }
        }

        impl crate::wire::Wire<Option<pb::$name>> for $name {
            fn wire(self) -> Option<pb::$name> {
                Some(self.into())
            }
            fn read(from: Option<pb::$name>) -> Result<Self, BadMessage> {
                from.ok_or_else(BadMessage::missing)?.try_into()
            }
        }
    )*};
}
pub(crate) use wired;

/// An enum without data: its number on the wire, and back where this version knows the number.
/// `else $unknown` gives the value for numbers that it does not know.
macro_rules! enumeration {
    ($name:ident { $($variant:ident),* $(,)? } $(else $unknown:ident)?) => {
        impl From<$name> for pb::$name {
            fn from(value: $name) -> Self {
                match value {
                    $($name::$variant => pb::$name::$variant),*
                }
            }
        }

        impl crate::wire::Wire<i32> for $name {
            fn wire(self) -> i32 {
                pb::$name::from(self).into()
            }
            fn read(from: i32) -> Result<Self, BadMessage> {
                match pb::$name::try_from(from) {
                    $(Ok(pb::$name::$variant) => Ok($name::$variant),)*
                    Ok(pb::$name::Unspecified) | Err(_) => {
                        $(return Ok($name::$unknown);)?
                        #[allow(unreachable_code, reason = "where an unknown number has a value")]
                        Err(BadMessage::unknown())
                    }
                }
            }
        }
    };
}
pub(crate) use enumeration;
