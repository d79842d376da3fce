//! What a session of ours must not take from anybody: settings that a configuration file, a role
//! or a database may hold, and that change what our statements mean, whether they may run, or how
//! long. They go into the startup packet, which wins over all three; so they hold from the first
//! statement on, also against who owns a database and may set things for it.

/// One setting that is pinned.
#[derive(Clone, Copy)]
struct Pin {
    name: &'static str,
    value: &'static str,
    /// The first major version that knows it: an older one refuses the login for it.
    since: u32,
    /// Only a superuser may set it.
    superuser: bool,
}

const fn pin(name: &'static str, value: &'static str) -> Pin {
    Pin { name, value, since: 13, superuser: false }
}

const fn since(since: u32, pin: Pin) -> Pin {
    Pin { since, ..pin }
}

const fn superuser(pin: Pin) -> Pin {
    Pin { superuser: true, ..pin }
}

const PINNED: &[Pin] = &[
    // Names mean what we mean: no function, operator, cast or table of anybody else's is found,
    // and temporary ones last.
    pin("search_path", "pg_catalog,pg_temp"),
    // ALTER DATABASE … SET role makes us somebody else.
    pin("role", "none"),
    // A standby refuses serializable.
    pin("default_transaction_isolation", "read committed"),
    pin("default_transaction_read_only", "off"),
    pin("default_transaction_deferrable", "off"),
    // The limits are the caller's.
    pin("statement_timeout", "0"),
    pin("lock_timeout", "0"),
    pin("idle_in_transaction_session_timeout", "0"),
    since(14, pin("idle_session_timeout", "0")),
    since(17, pin("transaction_timeout", "0")),
    pin("row_security", "on"),
    pin("standard_conforming_strings", "on"),
    pin("transform_null_equals", "off"),
    pin("exit_on_error", "off"),
    pin("client_min_messages", "warning"),
    pin("password_encryption", "scram-sha-256"),
    // Ours is housekeeping: it never waits for a standby.
    pin("synchronous_commit", "local"),
    // Small questions, many times a second: neither compiled nor spread over workers.
    pin("jit", "off"),
    pin("max_parallel_workers_per_gather", "0"),
    pin("local_preload_libraries", ""),
    superuser(pin("session_preload_libraries", "")),
    // Neither triggers nor event triggers, those at a login among them.
    superuser(pin("session_replication_role", "replica")),
    superuser(since(17, pin("event_triggers", "off"))),
    superuser(pin("lc_messages", "C")),
];

/// On a connection that speaks the replication protocol, as far as it is asked for there: a
/// receiver rests between its first commands, and a copy takes long.
const REPLICATION: &[Pin] = &[
    pin("statement_timeout", "0"),
    pin("lock_timeout", "0"),
    since(14, pin("idle_session_timeout", "0")),
    since(17, pin("transaction_timeout", "0")),
    pin("local_preload_libraries", ""),
];

/// Names and values for a session of a superuser with a server of version `major`.
pub fn superuser_settings(major: u32) -> impl Iterator<Item = (&'static str, &'static str)> {
    known(PINNED, major).map(|pin| (pin.name, pin.value))
}

/// The same for any other role.
pub(super) fn settings(major: u32) -> impl Iterator<Item = (&'static str, &'static str)> {
    known(PINNED, major).filter(|pin| !pin.superuser).map(|pin| (pin.name, pin.value))
}

/// For a program that logs in as a role without special rights: the value of `PGOPTIONS`.
pub(crate) fn tool_options(major: u32) -> String {
    join(settings(major))
}

/// For the replication protocol: the value of `options` in a connection string.
pub(crate) fn replication_options(major: u32) -> String {
    join(known(REPLICATION, major).map(|pin| (pin.name, pin.value)))
}

fn known(pins: &'static [Pin], major: u32) -> impl Iterator<Item = &'static Pin> {
    pins.iter().filter(move |pin| major >= pin.since)
}

fn join(settings: impl Iterator<Item = (&'static str, &'static str)>) -> String {
    let escape = |value: &str| value.replace('\\', "\\\\").replace(' ', "\\ ");
    let all: Vec<_> =
        settings.map(|(name, value)| format!("-c {name}={}", escape(value))).collect();
    all.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_version_and_the_role_may_set() {
        let has = |text: &str, name: &str| text.contains(&format!("-c {name}="));
        for (major, idle, transaction) in [(13, false, false), (15, true, false), (18, true, true)]
        {
            for text in [tool_options(major), replication_options(major)] {
                assert_eq!(has(&text, "idle_session_timeout"), idle, "{major} {text}");
                assert_eq!(has(&text, "transaction_timeout"), transaction, "{major} {text}");
            }
            let all: Vec<_> = superuser_settings(major).map(|(name, _)| name).collect();
            assert!(all.contains(&"session_replication_role"));
            assert_eq!(all.contains(&"event_triggers"), transaction);
        }
        let text = tool_options(15);
        assert!(text.starts_with("-c search_path=pg_catalog,pg_temp -c "), "{text}");
        assert!(text.contains(r"-c default_transaction_isolation=read\ committed -c"), "{text}");
        assert!(!has(&text, "session_preload_libraries"));
    }
}
