//! The relay against an outbox in memory, in paused time.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use berth_model::EventId;
use berth_proto::events::Event;
use berth_service::{Ids, ManualClock, Registry, Tasks, Timestamp};
use tokio::time::Instant;

use crate::{
    Backlog, DeadLetter, Due, Failure, Nudge, Outbox, OutboxError, Relay, RelayConfig, RelayMetrics, Sink,
    SinkError, fresh, keys,
};

#[derive(Debug)]
struct Row {
    event: Event,
    attempts: u32,
    not_before: Option<Instant>,
    dead: Option<String>,
}

/// Events, and who holds the lease until when.
#[derive(Debug, Default)]
struct MemoryOutbox(Mutex<Vec<Row>>, Mutex<Option<(String, Instant)>>);

impl MemoryOutbox {
    fn add(&self, event: Event) {
        self.0.lock().unwrap().push(Row { event, attempts: 0, not_before: None, dead: None });
    }

    fn waiting(&self) -> usize {
        self.0.lock().unwrap().iter().filter(|row| row.dead.is_none()).count()
    }
}

#[async_trait]
impl Outbox for MemoryOutbox {
    async fn claim(&self, _: &str, holder: &str, lease: Duration) -> Result<bool, OutboxError> {
        let mut held = self.1.lock().unwrap();
        if held.as_ref().is_some_and(|(other, until)| other != holder && *until > Instant::now()) {
            return Ok(false);
        }
        *held = Some((holder.to_owned(), Instant::now() + lease));
        Ok(true)
    }

    async fn due(&self, _: &str, limit: u32) -> Result<Vec<Due>, OutboxError> {
        let rows = self.0.lock().unwrap();
        let mut held = Vec::new();
        let mut due = Vec::new();
        for row in rows.iter().filter(|row| row.dead.is_none()) {
            if row.not_before.is_some_and(|at| at > Instant::now()) {
                held.push(&row.event.key);
            } else if !held.contains(&&row.event.key) && due.len() < limit as usize {
                due.push(Due { event: row.event.clone(), attempts: row.attempts });
            }
        }
        Ok(due)
    }

    async fn delivered(&self, _: &str, ids: &[EventId]) -> Result<(), OutboxError> {
        self.0.lock().unwrap().retain(|row| !ids.iter().any(|id| id.to_string() == row.event.id));
        Ok(())
    }

    async fn failed(&self, _: &str, id: EventId, failure: Failure) -> Result<(), OutboxError> {
        let mut rows = self.0.lock().unwrap();
        let row = rows.iter_mut().find(|row| row.event.id == id.to_string()).unwrap();
        row.attempts += 1;
        match failure.retry_after {
            Some(wait) => row.not_before = Some(Instant::now() + wait),
            None => row.dead = Some(failure.error),
        }
        Ok(())
    }

    async fn dead_letters(
        &self,
        _: &str,
        _: Option<EventId>,
        _: u32,
    ) -> Result<Vec<DeadLetter>, OutboxError> {
        let rows = self.0.lock().unwrap();
        let dead = rows.iter().filter_map(|row| {
            let error = row.dead.clone()?;
            Some(DeadLetter {
                event: row.event.clone(),
                attempts: row.attempts,
                error,
                failed_at: Timestamp(0),
            })
        });
        Ok(dead.collect())
    }

    async fn replay(&self, _: &str, id: EventId) -> Result<bool, OutboxError> {
        let mut rows = self.0.lock().unwrap();
        let Some(row) = rows.iter_mut().find(|row| row.event.id == id.to_string() && row.dead.is_some())
        else {
            return Ok(false);
        };
        (row.attempts, row.not_before, row.dead) = (0, None, None);
        Ok(true)
    }

    async fn backlog(&self, _: &str) -> Result<Backlog, OutboxError> {
        let depth = self.waiting() as u64;
        let dead = self.0.lock().unwrap().len() as u64 - depth;
        Ok(Backlog { depth, oldest_age: Duration::ZERO, dead })
    }
}

/// What the sink does with an event, by event type.
#[derive(Debug, Default)]
struct Recorder {
    applied: Mutex<Vec<(String, i64)>>,
    calls: Mutex<u32>,
    down: Mutex<bool>,
    heal: Mutex<bool>,
}

#[async_trait]
impl Sink for Recorder {
    async fn deliver(&self, events: &[Event]) -> Result<(), SinkError> {
        *self.calls.lock().unwrap() += 1;
        if *self.down.lock().unwrap() {
            return Err(SinkError::Unavailable("down".into()));
        }
        for event in events {
            let healed = *self.heal.lock().unwrap();
            match event.r#type.as_str() {
                "poison" if !healed => return Err(SinkError::Refused("can't read it".into())),
                "hang" if !healed => std::future::pending().await,
                // Applied, and then the answer is lost.
                "lost" if !self.applied.lock().unwrap().iter().any(|(key, _)| *key == event.key) => {
                    self.applied.lock().unwrap().push((event.key.clone(), event.sequence));
                    return Err(SinkError::Refused("connection lost".into()));
                }
                _ => self.applied.lock().unwrap().push((event.key.clone(), event.sequence)),
            }
        }
        Ok(())
    }
}

struct Bench {
    outbox: Arc<MemoryOutbox>,
    sink: Arc<Recorder>,
    nudge: Nudge,
    tasks: Tasks,
    ids: Ids,
    sequence: i64,
    registry: Registry,
}

impl Bench {
    fn start() -> Self {
        let clock = ManualClock::at(Timestamp(1_700_000_000_000_000));
        let ids = Ids::seeded(7, clock);
        let bench = Self {
            outbox: Arc::default(),
            sink: Arc::default(),
            nudge: Nudge::default(),
            tasks: Tasks::new(),
            ids,
            sequence: 0,
            registry: Registry::default(),
        };
        bench.with_relay()
    }

    fn with_tasks(mut self, tasks: Tasks) -> Self {
        self.tasks = tasks;
        self
    }

    fn with_relay(mut self) -> Self {
        let metrics = RelayMetrics::register(&mut self.registry);
        let config = RelayConfig { batch: 10, max_attempts: 4, ..RelayConfig::default() };
        let relay = Relay::new("audit", self.outbox.clone(), self.sink.clone(), config, &metrics, &self.ids);
        relay.spawn(&self.nudge, &self.tasks);
        self
    }

    fn add(&mut self, key: &str, kind: &str) -> String {
        self.sequence += 1;
        let id = self.ids.ulid().to_string();
        self.outbox.add(Event {
            id: id.clone(),
            r#type: kind.into(),
            key: key.into(),
            sequence: self.sequence,
            ..Event::default()
        });
        self.nudge.nudge();
        id
    }

    async fn settle(&self, wait: u64) {
        tokio::time::sleep(Duration::from_secs(wait)).await;
    }

    fn applied(&self, key: &str) -> Vec<i64> {
        self.sink.applied.lock().unwrap().iter().filter(|(k, _)| k == key).map(|(_, s)| *s).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn events_of_a_key_arrive_in_order_and_leave_the_outbox() {
    let mut bench = Bench::start();
    for _ in 0..25 {
        bench.add("a", "x");
        bench.add("b", "x");
    }
    bench.settle(1).await;
    assert_eq!(bench.applied("a"), (1..50).step_by(2).collect::<Vec<_>>());
    assert_eq!(bench.applied("b"), (2..51).step_by(2).collect::<Vec<_>>());
    assert_eq!(bench.outbox.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_means_the_event_again() {
    let mut bench = Bench::start();
    bench.add("a", "lost");
    bench.add("a", "x");
    bench.settle(20).await;
    assert_eq!(bench.applied("a"), [1, 1, 2]);
    assert_eq!(bench.outbox.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_poisoned_event_becomes_a_dead_letter_and_stops_no_other_key() {
    let mut bench = Bench::start();
    let poison = bench.add("a", "poison");
    bench.add("a", "x");
    bench.add("b", "x");
    bench.settle(0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(bench.applied("b"), [3]);
    // The key waits behind its event until that is given up.
    assert!(bench.applied("a").is_empty());
    bench.settle(60).await;
    assert_eq!(bench.applied("a"), [2]);
    let dead = bench.outbox.dead_letters("audit", None, 10).await.unwrap();
    assert_eq!((dead[0].event.id.as_str(), dead[0].attempts), (poison.as_str(), 4));
    assert!(dead[0].error.contains("can't read it"));

    *bench.sink.heal.lock().unwrap() = true;
    assert!(bench.outbox.replay("audit", poison.parse().unwrap()).await.unwrap());
    bench.nudge.nudge();
    bench.settle(1).await;
    assert_eq!(bench.applied("a"), [2, 1]);
    assert!(bench.outbox.dead_letters("audit", None, 10).await.unwrap().is_empty());
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &bench.registry).unwrap();
    assert!(text.contains("berth_events_given_up_total{subscriber=\"audit\"} 1"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_event_stops_no_other_key() {
    let mut bench = Bench::start();
    bench.add("a", "hang");
    bench.add("b", "x");
    bench.settle(120).await;
    assert_eq!(bench.applied("b"), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_hangs_for_a_day_makes_no_dead_letters() {
    let mut bench = Bench::start();
    bench.add("a", "hang");
    bench.add("a", "hang");
    bench.settle(86_400).await;
    assert_eq!(bench.outbox.waiting(), 2);
    assert!(*bench.sink.calls.lock().unwrap() < 1_000);
    *bench.sink.heal.lock().unwrap() = true;
    bench.settle(700).await;
    assert_eq!(bench.applied("a"), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn an_outage_makes_no_dead_letters_and_is_not_hammered() {
    let mut bench = Bench::start();
    *bench.sink.down.lock().unwrap() = true;
    bench.add("a", "x");
    bench.settle(86_400).await;
    assert_eq!(bench.outbox.waiting(), 1);
    assert!(*bench.sink.calls.lock().unwrap() < 6_500);
    *bench.sink.down.lock().unwrap() = false;
    bench.settle(31).await;
    assert_eq!(bench.applied("a"), [1]);
}

#[tokio::test(start_paused = true)]
async fn stopping_delivers_what_is_due() {
    let mut bench = Bench::start();
    bench.settle(1).await;
    bench.add("a", "x");
    bench.tasks.stop(Duration::from_secs(10)).await;
    assert_eq!(bench.applied("a"), [1]);
}

#[tokio::test(start_paused = true)]
async fn one_relay_delivers_and_another_takes_over_when_it_stops_or_dies() {
    let mut bench = Bench::start();
    bench.settle(1).await;
    let metrics = RelayMetrics::default();
    let second = Tasks::new();
    let sink: Arc<Recorder> = Arc::default();
    let relay =
        Relay::new("audit", bench.outbox.clone(), sink.clone(), RelayConfig::default(), &metrics, &bench.ids);
    relay.spawn(&bench.nudge, &second);
    bench.settle(60).await;
    bench.add("a", "x");
    bench.settle(2).await;
    assert_eq!((bench.applied("a"), sink.applied.lock().unwrap().len()), (vec![1], 0));
    bench.tasks.stop(Duration::from_secs(10)).await;
    bench.add("a", "x");
    bench.settle(3).await;
    assert_eq!(sink.applied.lock().unwrap().len(), 1);
    // Another process died and left its lease.
    second.stop(Duration::from_secs(10)).await;
    *bench.outbox.1.lock().unwrap() = Some(("dead".into(), Instant::now() + Duration::from_secs(15)));
    bench.add("a", "x");
    let bench = bench.with_tasks(Tasks::new()).with_relay();
    bench.settle(13).await;
    assert_eq!(bench.outbox.waiting(), 1);
    bench.settle(5).await;
    assert_eq!(bench.outbox.waiting(), 0);
}

#[test]
fn a_consumer_takes_only_what_is_newer() {
    let event = |key: &str, sequence| Event { key: key.into(), sequence, ..Event::default() };
    let events = [event("b", 4), event("a", 2), event("a", 2), event("a", 3), event("b", 3)];
    assert_eq!(keys(&events), ["a", "b"]);
    let mut positions = HashMap::from([("a".to_owned(), 2)]);
    let taken: Vec<i64> = fresh(&events, &mut positions).iter().map(|event| event.sequence).collect();
    assert_eq!(taken, [4, 3]);
    assert_eq!(positions, HashMap::from([("a".to_owned(), 3), ("b".to_owned(), 4)]));
    assert!(fresh(&events, &mut positions).is_empty());
}
