//! The model of Postgres against Postgres: one list of scenarios, each told in facts that both
//! must observe ([`list`]). The model goes through each with several seeds, real servers once.

mod book;
mod list;
mod model;
mod real;
mod subject;

/// Seeds say how long things take in the model: what is observed must not depend on that.
const SEEDS: std::ops::Range<u64> = 0..40;

/// What the model observes, with any seed.
fn by_model(scenario: &list::Scenario) {
    for seed in SEEDS {
        let seen = book::play(scenario, &mut model::Model::new(seed));
        same(&seen, "the list", scenario.sees, &format!("the model with seed {seed}"));
    }
}

/// What real servers observe, and that the model says the same.
fn by_postgres(scenario: &list::Scenario) {
    let Some(mut servers) = real::Real::new() else { return };
    let seen = book::play(scenario, &mut servers);
    let modelled = book::play(scenario, &mut model::Model::new(0));
    same(&seen, "the model", &modelled, "real Postgres");
    same(&seen, "the list", scenario.sees, "real Postgres");
}

/// Fails with the first fact that differs.
fn same(seen: &[String], theirs: &str, expected: &[impl AsRef<str>], ours: &str) {
    for (number, fact) in seen.iter().enumerate() {
        let other = expected.get(number).map_or("nothing more", AsRef::as_ref);
        assert_eq!(fact, other, "fact {number}: left observed by {ours}, right by {theirs}");
    }
    assert_eq!(seen.len(), expected.len(), "{ours} observes less than {theirs}");
}

/// One test for the model and one for real Postgres per entry of the list.
macro_rules! conformance {
    ($($place:ident :: $name:ident),* $(,)?) => {
        mod the_model {
            $(#[test]
            fn $name() {
                crate::by_model(&crate::list::$place::$name());
            })*
        }
        mod real_postgres {
            $(#[test]
            fn $name() {
                crate::by_postgres(&crate::list::$place::$name());
            })*
        }
    };
}

conformance! {
    receivers::a_reload_ends_the_receiver,
    receivers::a_receiver_that_is_signalled_comes_back,
    receivers::stuck_replay_keeps_the_receiver,
    receivers::positions_after_a_restart,
    commits::a_cancelled_wait_is_not_acknowledged,
    commits::dropping_the_names_releases_who_waits,
    commits::names_asked_for_are_not_in_force,
    commits::a_crash_with_commits_that_wait,
    promotions::a_promotion_forks_after_the_end,
    promotions::without_names_a_new_primary_acknowledges_alone,
    promotions::a_cascade_goes_on_over_a_promotion,
    promotions::an_old_primary_needs_a_rewind,
    stops::a_fast_stop_sends_its_checkpoint,
    stops::sessions_outlive_their_postmaster,
    stops::a_hung_primary_loses_its_receivers,
    stops::a_hung_standby_acknowledges_nothing,
}
