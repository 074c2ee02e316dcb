//! The consumer's half of "applied once". Delivery is at least once and may repeat or, after a replay or with two
//! relays, come late. A consumer therefore does all of this in ONE transaction of its own database:
//!
//! - a log of events: insert each under its event id, and let a conflict do nothing;
//! - a state made from events: lock the positions of [`keys`] in that order, take [`fresh`] events, apply them, and
//!   store their new positions.
//!
//! It answers only after the commit.

use std::collections::HashMap;

use berth_proto::events::Event;

/// The keys of a delivery, each once, ascending: the order in which to lock their positions.
pub fn keys(events: &[Event]) -> Vec<String> {
    let mut keys: Vec<String> = events.iter().map(|event| event.key.clone()).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The events newer than what was applied, in order. `positions` holds the highest applied sequence of each key and is
/// moved forward; what it then holds belongs in the same transaction as the events' effects.
pub fn fresh<'a>(events: &'a [Event], positions: &mut HashMap<String, i64>) -> Vec<&'a Event> {
    let mut taken = Vec::with_capacity(events.len());
    for event in events {
        match positions.get_mut(&event.key) {
            Some(position) if *position >= event.sequence => continue,
            Some(position) => *position = event.sequence,
            None => {
                positions.insert(event.key.clone(), event.sequence);
            }
        }
        taken.push(event);
    }
    taken
}
