//! Who says that it has pledged can acknowledge nothing: it takes no writes, receives from nobody,
//! will not by itself, and no promotion of it is under way.

use super::Moment;
use crate::postgres::Run;
use crate::world::World;

pub(super) fn check(world: &World, moment: &Moment<'_>) -> Option<String> {
    let Moment::Told { host, report } = moment else { return None };
    let epoch = report.pledge?.epoch;
    let h = &world.hosts[*host];
    let lie = match &h.pg.run {
        _ if h.disk.promise < epoch => "has not saved the promise",
        Run::Primary(_) | Run::Orphans(_) => "takes writes",
        Run::Starting { .. } => "starts attached",
        Run::Standby(standby) if standby.receiver.is_some() => "still receives",
        Run::Standby(standby) if standby.conf.is_some() => "may connect again",
        Run::Standby(_) if h.promotion == Some(h.pg.life) => "is being promoted",
        Run::Standby(_) | Run::Off => return None,
    };
    Some(format!("{} pledges epoch {epoch} and {lie}", h.name))
}
