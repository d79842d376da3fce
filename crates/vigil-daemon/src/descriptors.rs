//! How many files, sockets and pipes the program may have open at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one: shells and systemd give 1024, which a monitor of that
/// many keepers, or a keeper whose health port is flooded, has used up. The low soft limit is there
/// for programs that use `select(2)`, which none of ours does.
///
/// Returns the limit in force, `None` for none. A limit that cannot be raised stays as it is.
pub fn raise_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum;
        let low = Rlimit { current: Some(64), maximum: hard };
        setrlimit(Resource::Nofile, low).unwrap();
        assert_eq!(raise_limit(), hard);
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    }
}
