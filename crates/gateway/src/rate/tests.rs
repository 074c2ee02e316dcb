//! By paused time, with a ledger in memory that reckons as the script of Redis does.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use berth_service::Tasks;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    bucket::LEAST_BURST,
    ledger::{Away, CALM_LEASE, Charge, LEASE, Ledger},
    *,
};

const MILLISECOND: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct Book {
    began: Instant,
    accounts: Mutex<HashMap<String, i64>>,
    here: AtomicBool,
    /// Milliseconds on the way there, and as many back.
    way: AtomicU64,
    /// Microseconds that its clock is off.
    off: AtomicI64,
    charges: AtomicU64,
}

impl Book {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            accounts: Mutex::default(),
            here: AtomicBool::new(true),
            way: AtomicU64::new(1),
            off: AtomicI64::new(0),
            charges: AtomicU64::new(0),
        })
    }

    async fn travel(&self) {
        tokio::time::sleep(Duration::from_millis(self.way.load(Ordering::Relaxed))).await;
    }
}

#[async_trait]
impl Ledger for Book {
    fn is_here(&self) -> bool {
        self.here.load(Ordering::Relaxed)
    }

    async fn charge(&self, account: &str, charge: Charge) -> std::result::Result<i64, Away> {
        let Charge { before, cost, most } = charge;
        self.charges.fetch_add(1, Ordering::Relaxed);
        self.travel().await;
        if !self.is_here() {
            return Err(Away);
        }
        let now = i64::try_from(self.began.elapsed().as_micros()).unwrap() + self.off.load(Ordering::Relaxed);
        let ahead = {
            let mut accounts = self.accounts.lock();
            let due = accounts.get(account).copied().unwrap_or(now + before);
            let due = (due.max(now + before.min(0)) + cost).min(now + most);
            accounts.insert(account.to_owned(), due);
            due - now
        };
        self.travel().await;
        Ok(ahead)
    }
}

/// Gateways that share a book, and what they were asked and gave.
struct Fleet {
    book: Arc<Book>,
    meters: Vec<Meter>,
    /// Thousandths of a read that are left of each one's share of a millisecond.
    rests: Vec<u64>,
    refused: u64,
}

impl Fleet {
    fn new(gateways: usize, rate: u64) -> Self {
        let book = Book::new();
        let shared = Shared::new(book.clone(), Tasks::new());
        let instance = an_instance();
        let meters: Vec<_> = (0..gateways).map(|_| Meter::of(instance, rate, Some(&shared))).collect();
        Self { book, rests: vec![0; meters.len()], meters, refused: 0 }
    }

    /// Asks each gateway for so many reads a second, for that long; how many were admitted.
    async fn ask(&mut self, per_second: u64, how_long: Duration) -> u64 {
        let mut admitted = 0;
        for _ in 0..how_long.as_millis() {
            tokio::time::sleep(MILLISECOND).await;
            for (meter, rest) in self.meters.iter().zip(&mut self.rests) {
                *rest += per_second;
                for _ in 0..*rest / 1000 {
                    match meter.admit(false) {
                        Ok(()) => admitted += 1,
                        Err(_) => self.refused += 1,
                    }
                }
                *rest %= 1000;
            }
        }
        admitted
    }
}

fn an_instance() -> InstanceId {
    InstanceId::new(ulid::Ulid::from_parts(1, 1))
}

/// Within so many per cent.
fn is_about(found: u64, wanted: u64, per_cent: u64) -> bool {
    found.abs_diff(wanted) * 100 <= wanted * per_cent
}

fn alone(rate: u64) -> Meter {
    Meter::of(an_instance(), rate, None)
}

#[tokio::test(start_paused = true)]
async fn as_many_are_admitted_as_the_rate_and_its_burst_say() {
    for (rate, burst) in [(250, 50), (500, 50), (1000, 100)] {
        let meter = alone(rate);
        let mut at_once = 0;
        while meter.admit(false).is_ok() {
            at_once += 1;
        }
        assert_eq!(at_once, burst, "{rate}");
        let mut admitted = 0;
        for _ in 0..10_000 {
            tokio::time::advance(MILLISECOND).await;
            for _ in 0..2 {
                admitted += u64::from(meter.admit(false).is_ok());
            }
        }
        assert!((admitted * 100).abs_diff(rate * 1000) <= rate * 10, "{rate}: {admitted} in ten seconds");
        // HEADs are counted apart.
        let heads = (0..10 * rate).filter(|_| meter.admit(true).is_ok()).count() as u64;
        assert_eq!(heads, rate.max(LEAST_BURST));
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_when_to_come_again_and_then_it_works() {
    let meter = alone(1);
    while meter.admit(false).is_ok() {}
    let refused = meter.admit(false).unwrap_err();
    assert_eq!(refused.problem.code, ErrorCode::TooManyRequests);
    let seconds = refused.problem.detail.unwrap()["retry_after"].as_u64().unwrap();
    assert_eq!(seconds, 1);
    tokio::time::advance(Duration::from_secs(seconds)).await;
    meter.admit(false).unwrap();
    meter.admit(false).unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn gateways_that_share_admit_the_rate_together() {
    for (rate, burst) in [(250, 50), (500, 50), (1000, 100)] {
        for gateways in 1..=4 {
            let mut fleet = Fleet::new(gateways, rate);
            // What each may take before it hears of the others: in a lease and on the way, and at the beginning its burst, which
            // is paid back within a second.
            let of = |time: Duration| gateways as u64 * (rate * (time.as_millis() as u64 + 4) / 1000 + 2);
            let (begun, early) = (of(CALM_LEASE) + gateways as u64 * burst, of(LEASE));
            let mut total = 0;
            for tenths in 1..=20 {
                total += fleet.ask(10 * rate / gateways as u64, Duration::from_millis(100)).await;
                let by_rate = burst + rate * tenths / 10;
                let most = early + if tenths < 12 { by_rate.max(begun) } else { by_rate };
                assert!(total <= most, "{total} of {most} by {gateways} at {rate} after {tenths} tenths");
            }
            let admitted = fleet.ask(10 * rate / gateways as u64, Duration::from_secs(10)).await;
            assert!(is_about(admitted, 10 * rate, 2), "{admitted} in 10 s by {gateways} at {rate}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_several_gateways_gives_the_whole_rate() {
    let mut fleet = Fleet::new(3, 250);
    fleet.ask(10, Duration::from_secs(2)).await;
    let others = fleet.meters.split_off(1);
    fleet.ask(2500, Duration::from_secs(2)).await;
    let admitted = fleet.ask(2500, Duration::from_secs(10)).await;
    assert!(is_about(admitted, 2500, 2), "{admitted}");
    drop(others);
}

#[tokio::test(start_paused = true)]
async fn within_the_rate_nobody_is_refused_and_beyond_it_only_what_is_beyond() {
    let mut fleet = Fleet::new(2, 250);
    assert_eq!(fleet.ask(120, Duration::from_secs(20)).await, 2 * 120 * 20);
    assert_eq!(fleet.refused, 0);
    // Neither is beyond it alone.
    fleet.ask(150, Duration::from_secs(5)).await;
    let admitted = fleet.ask(150, Duration::from_secs(10)).await;
    assert!(is_about(admitted, 2500, 2), "{admitted}");
}

#[tokio::test(start_paused = true)]
async fn a_crowd_at_all_gateways_at_once_is_admitted_and_paid_back() {
    let mut fleet = Fleet::new(4, 250);
    let mut total = 0;
    for meter in &fleet.meters {
        total += (0..500).filter(|_| meter.admit(false).is_ok()).count() as u64;
    }
    assert_eq!(total, 4 * LEAST_BURST);
    total += fleet.ask(625, Duration::from_secs(2)).await;
    assert!(is_about(total, 50 + 500, 5), "{total}");
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_each_counts_by_itself_and_nothing_is_owed_for_it_later() {
    let mut fleet = Fleet::new(2, 250);
    fleet.ask(1250, Duration::from_secs(2)).await;
    fleet.book.here.store(false, Ordering::Relaxed);
    fleet.ask(1250, Duration::from_secs(1)).await;
    let charges = fleet.book.charges.load(Ordering::Relaxed);
    let admitted = fleet.ask(1250, Duration::from_secs(10)).await;
    assert!(is_about(admitted, 2 * 2500, 2), "{admitted}");
    assert_eq!(fleet.book.charges.load(Ordering::Relaxed), charges, "who is away is not asked");
    // Emptied meanwhile.
    fleet.book.accounts.lock().clear();
    fleet.book.here.store(true, Ordering::Relaxed);
    let admitted = fleet.ask(1250, Duration::from_secs(2)).await;
    assert!(is_about(admitted, 500, 10), "{admitted}");
    let admitted = fleet.ask(1250, Duration::from_secs(10)).await;
    assert!(is_about(admitted, 2500, 2), "{admitted}");
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_is_emptied_gives_nothing_away() {
    let mut fleet = Fleet::new(3, 250);
    fleet.ask(1000, Duration::from_secs(2)).await;
    let mut admitted = 0;
    for _ in 0..20 {
        fleet.book.accounts.lock().clear();
        admitted += fleet.ask(1000, Duration::from_millis(500)).await;
    }
    assert!(is_about(admitted, 2500, 5), "{admitted}");
}

#[tokio::test(start_paused = true)]
async fn a_slow_ledger_lets_nobody_wait_and_the_rate_holds() {
    let mut fleet = Fleet::new(2, 250);
    fleet.book.way.store(50, Ordering::Relaxed);
    let before = Instant::now();
    fleet.ask(1250, Duration::from_secs(2)).await;
    assert_eq!(before.elapsed(), Duration::from_secs(2));
    let admitted = fleet.ask(1250, Duration::from_secs(10)).await;
    assert!(is_about(admitted, 2500, 3), "{admitted}");
}

#[tokio::test(start_paused = true)]
async fn a_clock_of_the_ledger_that_steps_costs_seconds_at_most() {
    const TEN_MINUTES: i64 = 600_000_000;
    for step in [-TEN_MINUTES, TEN_MINUTES] {
        let mut fleet = Fleet::new(2, 250);
        fleet.ask(1250, Duration::from_secs(2)).await;
        fleet.book.off.store(step, Ordering::Relaxed);
        fleet.ask(1250, Duration::from_secs(3)).await;
        let admitted = fleet.ask(1250, Duration::from_secs(10)).await;
        assert!(is_about(admitted, 2500, 2), "{admitted} after a step of {step}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_ledger_is_asked_once_a_lease_and_not_at_rest() {
    let mut fleet = Fleet::new(1, 1000);
    fleet.ask(5000, Duration::from_secs(10)).await;
    let charges = fleet.book.charges.load(Ordering::Relaxed);
    let most = 10_000 / LEASE.as_millis() as u64 + 1;
    assert!(charges > most / 2 && charges <= most, "{charges} of {most}");
    // And less often while little is read.
    let mut calm = Fleet::new(1, 1000);
    assert_eq!(calm.ask(100, Duration::from_secs(10)).await, 1000);
    let charges = calm.book.charges.load(Ordering::Relaxed);
    assert!(charges <= 10_000 / CALM_LEASE.as_millis() as u64 + 1, "{charges}");
    fleet.ask(0, Duration::from_secs(1)).await;
    let rested = fleet.book.charges.load(Ordering::Relaxed);
    fleet.ask(0, Duration::from_secs(60)).await;
    assert_eq!(fleet.book.charges.load(Ordering::Relaxed), rested);
}
