//! Names that travel as numbers.

use vigil_core::command::RefusalCode;
use vigil_core::event::EventKind;
use vigil_core::message::{Barrier, Server, TroubleKind};
use vigil_core::state::NodeState;

use crate::pb;
use crate::wire::{BadMessage, enumeration};

// A newer keeper may see its server in a way that this monitor does not know.
enumeration!(Server {
    NoData,
    Stopped,
    Starting,
    Standby,
    Primary,
    Hung,
    Unknown,
} else Unknown);

enumeration!(Barrier {
    Login,
    Database,
    TooManyClients,
    Resources,
    Rights,
    Silence,
    Machine,
    Other,
} else Other);

enumeration!(TroubleKind {
    BrokenConfiguration,
    Receiver,
    ReplayPaused,
    CrashLoop,
    NoDatabase,
    Unknown,
} else Unknown);

enumeration!(NodeState {
    Init,
    Single,
    WaitPrimary,
    Primary,
    ApplySettings,
    Draining,
    DemoteTimeout,
    Demoted,
    WaitStandby,
    Catchingup,
    Secondary,
    PreparePromotion,
    StopReplication,
    ReportLsn,
    FastForward,
    JoinSecondary,
    PrepareMaintenance,
    WaitMaintenance,
    Maintenance,
    Dropped,
});

enumeration!(EventKind {
    Failover,
    Switchover,
    Promotion,
    Rejoin,
    Degrade,
    Rule,
    Maintenance,
    Quarantine,
    Setting,
    Node,
});

enumeration!(RefusalCode { BadValue, NotFound, Refused } else Refused);
