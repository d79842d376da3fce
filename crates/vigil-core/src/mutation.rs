//! Rules of safety that a test build can break, one at a time: proof that the simulator would
//! notice. Only with the feature `mutations`, which no shipped program is built with; without it
//! every question is a constant `false`.

macro_rules! mutations {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// One broken rule.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum Mutation {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Mutation {
            /// Every one that there is.
            pub const ALL: &[Mutation] = &[$(Mutation::$variant,)+];

            /// Its name on a command line.
            pub fn name(self) -> &'static str {
                match self { $(Mutation::$variant => $name,)+ }
            }

            /// What is broken, in a few words.
            pub fn about(self) -> &'static str {
                match self { $(Mutation::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The one called `name`.
            pub fn named(name: &str) -> Option<Mutation> {
                Self::ALL.iter().copied().find(|m| m.name() == name)
            }
        }
    };
}

mutations! {
    /// a standby pledges while its receiver still acknowledges
    PledgeAttached = "pledge-attached",
    /// a reload counts as a pledge: a receiver that outlives it is not looked for
    PledgeByReload = "pledge-by-reload",
    /// a pledge is told while a promotion may still end
    PledgeWhilePromoting = "pledge-while-promoting",
    /// stopped is reported while backends live on
    StoppedWithBackends = "stopped-with-backends",
    /// the promise is not made durable
    PromiseNotSaved = "promise-not-saved",
    /// orders of an older epoch, or older than the last, are obeyed
    OldOrdersObeyed = "old-orders-obeyed",
    /// a pledge of an older epoch counts in this one
    OldPledgesCount = "old-pledges-count",
    /// one pledge fewer than N - W + 1 is enough
    QuorumOffByOne = "quorum-off-by-one",
    /// without acknowledgements by standbys, any candidate is complete
    AsyncNeedsNobody = "async-needs-nobody",
    /// an election looks at the newest rule in flight only
    NewestRuleOnly = "newest-rule-only",
    /// an election looks at the oldest rule in flight only
    OldestRuleOnly = "oldest-rule-only",
    /// older rules are forgotten when a winner is recorded
    ForgottenAtElection = "forgotten-at-election",
    /// older rules are forgotten when a rule is changed
    ForgottenAtChange = "forgotten-at-change",
    /// a rule counts as covered as soon as it is in force
    CoveredAtOnce = "covered-at-once",
    /// a rule counts as covered by members that stream, whatever they have flushed
    CoveredByStreams = "covered-by-streams",
    /// positions compare by LSN, without their timelines
    BareLsn = "bare-lsn",
    /// a promotion takes the next number of its own timeline, used or not
    TimelineReused = "timeline-reused",
    /// a position read after a restart is trusted before replay is through
    PositionTooLow = "position-too-low",
    /// a new epoch is not a new number
    EpochReused = "epoch-reused",
    /// a winner takes writes before its sync rule is in force
    NamesAfterPromotion = "names-after-promotion",
    /// a winner that stopped is promoted again in its epoch
    PromotedTwice = "promoted-twice",
    /// any running primary may be renewed, not only the newest winner
    RenewAnybody = "renew-anybody",
    /// a primary whose standbys are gone acknowledges alone before that is recorded
    DegradeUnrecorded = "degrade-unrecorded",
    /// a node follows whatever its own WAL is
    LineageUnchecked = "lineage-unchecked",
    /// a rewind does not wait until the new primary's rule is covered
    RewindEarly = "rewind-early",
    /// WAL that a rewind discards is not kept aside
    WalNotKept = "wal-not-kept",
    /// a half-replaced data directory is started
    HalfReplacedStarted = "half-replaced-started",
    /// a former primary boots read-write by itself
    BootReadWrite = "boot-read-write",
    /// a node that lost its disk comes back under its old id
    Amnesia = "amnesia",
    /// a store older than the keepers is trusted
    OldStoreTrusted = "old-store-trusted",
    /// the monitor's own silence convicts a primary that members receive from
    SilenceConvicts = "silence-convicts",
    /// a winner that does not come up is waited for without end
    WinnerKept = "winner-kept",
    /// a member that has only introduced itself does not hold a conviction up
    UnaskedConvicts = "unasked-convicts",
    /// a primary fences itself by what it saw before it was starved
    FencedUnseen = "fenced-unseen",
    /// a silent primary is sent the order to pledge, and obeys it when it is back
    PledgeInTheMail = "pledge-in-the-mail",
    /// a standby's keeper that misses WAL asks its primary for no commit
    WitnessSilent = "witness-silent",
    /// a walsender that says that it lives vouches, whether or not commits end
    KeepalivesVouch = "keepalives-vouch",
}

#[cfg(feature = "mutations")]
mod switch {
    use std::cell::Cell;

    use super::Mutation;

    thread_local! {
        static ACTIVE: Cell<Option<Mutation>> = const { Cell::new(None) };
    }

    /// Breaks a rule (or none) for everything that this thread computes from now on.
    pub fn set(mutation: Option<Mutation>) {
        ACTIVE.set(mutation);
    }

    /// Whether this rule is broken now. Public for shells of tests: some rules are kept by what
    /// carries a step out.
    pub fn broken(mutation: Mutation) -> bool {
        ACTIVE.get() == Some(mutation)
    }
}

#[cfg(feature = "mutations")]
pub use switch::{broken, set};

/// Whether this rule is broken now.
#[cfg(not(feature = "mutations"))]
pub(crate) const fn broken(_: Mutation) -> bool {
    false
}
