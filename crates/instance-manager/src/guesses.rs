//! Slows guessing: whoever was wrong too often waits, longer each time, before a password is looked at again. Counted for
//! each account, there or not, and for each address; by each process for itself.

use std::{net::IpAddr, sync::Arc, time::Duration};

use berth_model::InstanceId;
use berth_oci::{ErrorCode, Problem};
use berth_service::{SharedClock, Timestamp};
use parking_lot::Mutex;

/// So many wrong passwords are free: people mistype.
const FREE_OF_ACCOUNT: u32 = 10;

/// More people share an address.
const FREE_OF_ADDRESS: u32 = 50;

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(300);

/// What was not seen for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(3_600);

/// How many accounts and addresses are remembered; of more, those that were seen last.
const REMEMBERED: u64 = 200_000;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Who {
    Account(InstanceId, String),
    Address([u8; 16]),
}

#[derive(Default, Debug)]
struct Wrongs {
    count: u32,
    /// No password is looked at before.
    until: i64,
}

/// Who was wrong how often.
#[derive(Clone, Debug)]
pub(crate) struct Guesses {
    wrongs: moka::sync::Cache<Who, Arc<Mutex<Wrongs>>>,
    clock: SharedClock,
}

/// One attempt to log in.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    guesses: &'a Guesses,
    account: Who,
    address: Option<Who>,
}

/// A whole network of IPv6 is one address: whoever has one has 2^64.
fn address(text: &str) -> Option<Who> {
    let octets = match text.parse().ok()? {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => address.octets(),
        IpAddr::V6(address) => {
            let mut octets = address.octets();
            octets[8..].fill(0);
            octets
        }
    };
    Some(Who::Address(octets))
}

impl Guesses {
    pub(crate) fn new(clock: SharedClock) -> Self {
        let wrongs = moka::sync::Cache::builder().max_capacity(REMEMBERED).time_to_idle(FORGOTTEN).build();
        Self { wrongs, clock }
    }

    /// An attempt on an account, from an address if it is known.
    pub(crate) fn attempt(&self, instance: InstanceId, name: &str, from: &str) -> Attempt<'_> {
        // A name longer than any has no account; its beginning will do.
        let name = name.chars().take(128).collect();
        Attempt { guesses: self, account: Who::Account(instance, name), address: address(from) }
    }

    fn waits(&self, who: &Who, now: Timestamp) -> Option<Duration> {
        let wrongs = self.wrongs.get(who)?;
        let until = wrongs.lock().until;
        u64::try_from(until - now.0).ok().filter(|left| *left > 0).map(Duration::from_micros)
    }

    fn wrong(&self, who: &Who, free: u32, now: Timestamp) {
        let wrongs = self.wrongs.get_with(who.clone(), Arc::default);
        let mut wrongs = wrongs.lock();
        wrongs.count = wrongs.count.saturating_add(1);
        if let Some(over) = wrongs.count.checked_sub(free) {
            let wait = Duration::from_secs(1 << over.min(16)).min(LONGEST);
            wrongs.until = now.plus(wait).0;
        }
    }
}

impl Attempt<'_> {
    /// Refuses while it has to wait.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        let now = self.guesses.clock.now();
        let waits = [Some(&self.account), self.address.as_ref()];
        let Some(wait) = waits.into_iter().flatten().filter_map(|who| self.guesses.waits(who, now)).max()
        else {
            return Ok(());
        };
        let seconds = wait.as_secs() + 1;
        let message = format!("too many wrong passwords; try again in {seconds} s");
        let detail = serde_json::json!({ "retry_after": seconds });
        Err(Problem::new(ErrorCode::TooManyRequests, message).with_detail(detail))
    }

    /// The password was wrong.
    pub(crate) fn wrong(&self) {
        let now = self.guesses.clock.now();
        self.guesses.wrong(&self.account, FREE_OF_ACCOUNT, now);
        if let Some(address) = &self.address {
            self.guesses.wrong(address, FREE_OF_ADDRESS, now);
        }
    }

    /// The password was right. The address stays as suspect as it was: one may know one password and guess others.
    pub(crate) fn right(&self) {
        self.guesses.wrongs.invalidate(&self.account);
    }
}

#[cfg(test)]
mod tests {
    use berth_service::{Ids, ManualClock};

    use super::*;

    #[test]
    fn an_account_and_an_address_wait_longer_each_time_and_others_do_not() {
        let clock = ManualClock::at(Timestamp::from_seconds(1_700_000_000));
        let instance = InstanceId::new(Ids::random(clock.clone()).ulid());
        let guesses = Guesses::new(clock.clone());
        let seconds = |problem: Problem| problem.detail.unwrap()["retry_after"].as_u64().unwrap();
        for _ in 0..FREE_OF_ACCOUNT {
            let attempt = guesses.attempt(instance, "alice", "192.0.2.1");
            attempt.check().unwrap();
            attempt.wrong();
        }
        for wait in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let attempt = guesses.attempt(instance, "alice", "192.0.2.1");
            assert_eq!(seconds(attempt.check().unwrap_err()), wait + 1);
            // Another account at the same address, and the account from elsewhere.
            guesses.attempt(instance, "bob", "192.0.2.1").check().unwrap();
            guesses.attempt(instance, "alice", "192.0.2.2").check().unwrap_err();
            clock.advance(Duration::from_secs(wait));
            attempt.check().unwrap();
            attempt.wrong();
        }
        clock.advance(LONGEST);
        guesses.attempt(instance, "alice", "192.0.2.1").right();
        let again = guesses.attempt(instance, "alice", "192.0.2.1");
        again.wrong();
        again.check().unwrap();
        // The address has its own count, over all accounts.
        for n in 0..FREE_OF_ADDRESS {
            guesses.attempt(instance, &format!("user{n}"), "2001:db8::1").wrong();
        }
        guesses.attempt(instance, "carol", "2001:db8::ffff").check().unwrap_err();
        guesses.attempt(instance, "carol", "2001:db8:0:1::1").check().unwrap();
        guesses.attempt(instance, "carol", "").check().unwrap();
    }
}
