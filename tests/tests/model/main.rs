//! A model of how content comes and goes: uploads under leases and epochs, links, manifests, tags, the collector, object
//! deletes, crashes. Explored exhaustively within small worlds; then with one rule left out at a time, to see that the
//! model would notice.
//!
//! Each transition's documentation names the function that it mirrors. `collector` says what the collector's transactions
//! are.
#![allow(clippy::print_stdout, reason = "what was explored belongs in the log")]

mod actions;
mod collector;
mod invariants;
mod locks;
mod state;
mod units;
mod uploads;
mod world;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use stateright::{Checker, HasDiscoveries, Model, Property, UniformChooser};

use crate::{
    actions::Action,
    state::State,
    world::{Break, Kind, Taken, World},
};

/// A world, as the checker sees it.
#[derive(Clone, Debug)]
pub(crate) struct Checked(pub(crate) World);

impl Model for Checked {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.0.start.clone()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions::candidates(&self.0, state, actions);
    }

    fn next_state(&self, before: &State, action: Action) -> Option<State> {
        actions::apply(&self.0, before, action).map(State::in_order)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        invariants::all()
    }
}

/// What an exploration came to.
struct Explored {
    states: usize,
    /// The violated property, and the way to it.
    found: Option<(&'static str, Vec<Action>)>,
}

/// How far to go: breadth first so many states, then random walks to the end of a world for so long.
#[derive(Clone, Copy)]
struct Reach {
    states: usize,
    walks: Duration,
}

const SEED: u64 = 20_240_601;

fn explore(world: &World, reach: Reach) -> Explored {
    let began = Instant::now();
    let builder = || {
        let checker = Checked(world.clone()).checker();
        checker.finish_when(HasDiscoveries::AnyFailures).threads(2)
    };
    let wide = builder().target_state_count(reach.states).spawn_bfs().join();
    let mut found = wide.discoveries().into_iter().next().map(|(name, path)| (name, path.into_actions()));
    let all = found.is_none() && wide.state_count() < reach.states;
    let states = wide.unique_state_count();
    let mut walked = 0;
    if found.is_none() && !all && !reach.walks.is_zero() {
        let far = builder().timeout(reach.walks).spawn_simulation(SEED, UniformChooser).join();
        walked = far.state_count();
        found = far.discoveries().into_iter().next().map(|(name, path)| (name, path.into_actions()));
    }
    println!(
        "{}{}: {states} states{} to depth {}, {walked} steps of random walks, {:?}",
        world.name,
        world.broken.map(|broken| format!(" with {broken:?}")).unwrap_or_default(),
        if all { ", all there are," } else { "" },
        wide.max_depth(),
        began.elapsed()
    );
    Explored { states, found }
}

fn shown(world: &World, (name, path): &(&'static str, Vec<Action>)) -> String {
    let path: String = path.iter().map(|action| format!("\n  {action:?}")).collect();
    format!("{}: {name}{path}", world.name)
}

/// Explores every world and checks that nothing was violated and no kind of transition left out.
fn check(worlds: Vec<World>, reach: Reach) {
    let taken = Arc::new(Taken::default());
    let mut total = 0;
    for mut world in worlds {
        world.taken = Arc::clone(&taken);
        let explored = explore(&world, reach);
        if let Some(found) = &explored.found {
            panic!("violated in {}", shown(&world, found));
        }
        assert!(explored.states > 0);
        total += explored.states;
    }
    println!("{total} states in all worlds, seed {SEED}");
    let never: Vec<_> = Kind::ALL.iter().filter(|kind| taken.count(**kind) == 0).collect();
    assert!(never.is_empty(), "never taken: {never:?}");
}

#[test]
fn the_protocol_holds_in_small_worlds() {
    check(World::all(), Reach { states: 150_000, walks: Duration::from_millis(500) });
}

#[test]
#[ignore = "takes a quarter of an hour"]
fn long_the_protocol_holds_with_two_collectors() {
    let worlds = World::all().into_iter().map(|world| world.with_collectors(2)).collect();
    check(worlds, Reach { states: 3_000_000, walks: Duration::from_secs(30) });
}

/// Makes a world with, maybe, a rule left out.
type Maker = fn(Option<Break>) -> World;

/// The rule that is left out, the world in which that shows, and the property that is violated.
const BROKEN: &[(Break, Maker, &str)] = &[
    (Break::ReviewWithoutLookingAgain, World::released, "I1"),
    (Break::ReviewNotDueAnyMore, World::links, "what was touched"),
    (Break::CommitWithoutReviews, World::duplicates, "I2"),
    (Break::KeysFromDigests, World::renewals, "I1"),
    (Break::CheckpointWithoutEpoch, World::appends, "I3"),
    (Break::WritersStayOpen, World::appends, "bytes of an older epoch"),
    (Break::OpenTwice, World::appends, "I3"),
    (Break::RecordBeforeSync, World::appends, "I3"),
    (Break::NoFloor, World::links, "what was touched"),
    (Break::NoGrace, World::links, "a download"),
    (Break::HoldWithoutLookingAgain, World::released, "what was touched"),
    (Break::ReviewsWithoutReasons, World::indexes, "I2"),
    (Break::DeleteWithoutLookingAgain, World::indexes, "I2"),
    (Break::SharedAcrossInstances, World::instances, "I4"),
    (Break::DropWithoutReview, World::links, "I2"),
    (Break::RepositoryWithoutLock, World::provisional, "I1"),
    (Break::ReviewsInAnyOrder, World::untagged, "locks are taken"),
    (Break::ReapWithoutCompare, World::duplicates, "I1"),
];

#[test]
fn a_rule_left_out_is_noticed() {
    let mut unnoticed = Vec::new();
    for (broken, world, property) in BROKEN {
        let world = world(Some(*broken));
        match explore(&world, Reach { states: 1_000_000, walks: Duration::ZERO }).found {
            Some(found) => {
                println!("{}", shown(&world, &found));
                if !found.0.starts_with(property) {
                    unnoticed.push(format!("{broken:?} is noticed as {}", found.0));
                }
            }
            None => unnoticed.push(format!("{broken:?} is not noticed")),
        }
    }
    assert!(unnoticed.is_empty(), "{}", unnoticed.join("\n"));
}
