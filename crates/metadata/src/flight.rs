//! One question at a time for each key. Who asks while a query for the same key is under way waits for the *next* one,
//! which starts when the running one ends and answers all who wait by then: a restart under load costs one query for each
//! key, and no answer is older than its question (a joined query would have begun before what was just written).

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, Hash, RandomState},
    sync::Arc,
};

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::oneshot;

/// Locks, so that keys seldom wait for each other. A power of two.
const SHARDS: usize = 16;

/// Who waits for the next query of a key. A key that is present has a query under way.
type Waiting<K, T> = HashMap<K, VecDeque<oneshot::Sender<Turn<K, T>>>>;

/// The queries under way, by key. Clones share them.
#[derive(Debug)]
pub(crate) struct Flights<K: Eq + Hash + Clone, T: Clone> {
    shards: Arc<[Mutex<Waiting<K, T>>]>,
    hasher: RandomState,
    /// Answers that came from another's query.
    joined: Counter,
}

impl<K: Eq + Hash + Clone, T: Clone> Clone for Flights<K, T> {
    fn clone(&self) -> Self {
        Self { shards: Arc::clone(&self.shards), hasher: self.hasher.clone(), joined: self.joined.clone() }
    }
}

/// What one who waits is told.
#[derive(Debug)]
enum Turn<K: Eq + Hash + Clone, T: Clone> {
    Answer(T),
    /// Ask for all who waited.
    Lead(Lead<K, T>),
}

/// The right to run the query of a key. Dropped, with or without an answer, it goes on to the next who waits, so that
/// one who goes away half-way leaves nobody behind.
#[derive(Debug)]
struct Lead<K: Eq + Hash + Clone, T: Clone> {
    flights: Flights<K, T>,
    key: K,
    /// Who gets the same answer: all who waited before the query began.
    followers: VecDeque<oneshot::Sender<Turn<K, T>>>,
}

impl<K: Eq + Hash + Clone, T: Clone> Flights<K, T> {
    pub(crate) fn new(joined: Counter) -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new(), joined }
    }

    fn shard(&self, key: &K) -> &Mutex<Waiting<K, T>> {
        let hash = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        &self.shards[hash]
    }

    /// The answer of a query that begins after this call does.
    pub(crate) async fn ask<F: Future<Output = T>>(&self, key: K, query: impl FnOnce() -> F) -> T {
        let lead = match self.enter(&key) {
            Ok(lead) => lead,
            Err(turn) => match turn.await {
                Ok(Turn::Answer(answer)) => {
                    self.joined.inc();
                    return answer;
                }
                Ok(Turn::Lead(lead)) => lead,
                // Nobody drops a sender without handing its turn on; if one did, asking alone is right as well.
                Err(_closed) => return query().await,
            },
        };
        let answer = query().await;
        lead.answer(&answer);
        answer
    }

    fn enter(&self, key: &K) -> Result<Lead<K, T>, oneshot::Receiver<Turn<K, T>>> {
        let mut waiting = self.shard(key).lock();
        if let Some(queue) = waiting.get_mut(key) {
            let (sender, receiver) = oneshot::channel();
            queue.push_back(sender);
            return Err(receiver);
        }
        waiting.insert(key.clone(), VecDeque::new());
        Ok(Lead { flights: self.clone(), key: key.clone(), followers: VecDeque::new() })
    }
}

impl<K: Eq + Hash + Clone, T: Clone> Lead<K, T> {
    fn answer(mut self, answer: &T) {
        for follower in self.followers.drain(..) {
            let _gone = follower.send(Turn::Answer(answer.clone()));
        }
    }
}

impl<K: Eq + Hash + Clone, T: Clone> Drop for Lead<K, T> {
    fn drop(&mut self) {
        let next = {
            let mut waiting = self.flights.shard(&self.key).lock();
            let Some(queue) = waiting.get_mut(&self.key) else { return };
            // Followers are left only when the query was dropped: they came before those who wait.
            let mut followers = std::mem::take(&mut self.followers);
            followers.append(queue);
            let first = loop {
                match followers.pop_front() {
                    Some(follower) if follower.is_closed() => {}
                    other => break other,
                }
            };
            let Some(first) = first else {
                waiting.remove(&self.key);
                return;
            };
            (first, Self { flights: self.flights.clone(), key: self.key.clone(), followers })
        };
        // Outside the lock: when the receiver is gone by now, what was sent is dropped here, and goes on.
        let (first, lead) = next;
        let _gone = first.send(Turn::Lead(lead));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use berth_service::Tasks;
    use tokio::sync::Semaphore;

    use super::*;

    fn ask(flights: &Flights<u8, usize>, key: u8, source: &Source) -> tokio::task::JoinHandle<usize> {
        let (flights, source) = (flights.clone(), source.clone());
        Tasks::new().spawn("ask", async move { flights.ask(key, || source.query()).await })
    }

    /// A query that waits to be let through, and counts.
    #[derive(Clone, Default)]
    struct Source(Arc<Counts>);

    struct Counts {
        begun: AtomicUsize,
        running: AtomicUsize,
        gate: Semaphore,
    }

    impl Default for Counts {
        fn default() -> Self {
            Self { begun: AtomicUsize::new(0), running: AtomicUsize::new(0), gate: Semaphore::new(0) }
        }
    }

    impl Source {
        /// Answers with the number of the query.
        async fn query(self) -> usize {
            let number = self.0.begun.fetch_add(1, Ordering::SeqCst) + 1;
            assert_eq!(self.0.running.fetch_add(1, Ordering::SeqCst), 0, "two at a time for one key");
            let leaving = Leaving(&self.0.running);
            self.0.gate.acquire().await.unwrap().forget();
            drop(leaving);
            number
        }

        fn begun(&self) -> usize {
            self.0.begun.load(Ordering::SeqCst)
        }
    }

    struct Leaving<'a>(&'a AtomicUsize);

    impl Drop for Leaving<'_> {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    async fn settle() {
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn who_comes_while_a_query_runs_gets_the_next_ones_answer() {
        let (flights, source) = (Flights::<u8, usize>::new(Counter::default()), Source::default());
        let first = ask(&flights, 1, &source);
        settle().await;
        let others: Vec<_> = (0..50).map(|_| ask(&flights, 1, &source)).collect();
        settle().await;
        assert_eq!(source.begun(), 1);
        source.0.gate.add_permits(1);
        assert_eq!(first.await.unwrap(), 1, "a query answers who began it");
        settle().await;
        assert_eq!(source.begun(), 2, "one more for all the others");
        source.0.gate.add_permits(1);
        for other in others {
            assert_eq!(other.await.unwrap(), 2);
        }
        assert_eq!((source.begun(), flights.joined.get()), (2, 49));
        assert!(flights.shards.iter().all(|shard| shard.lock().is_empty()), "nothing is kept");
    }

    #[tokio::test]
    async fn other_keys_do_not_wait() {
        let flights = Flights::<u8, usize>::new(Counter::default());
        let sources: Vec<Source> = (0..40).map(|_| Source::default()).collect();
        let asked: Vec<_> = (0_u8..).zip(&sources).map(|(key, source)| ask(&flights, key, source)).collect();
        settle().await;
        for (source, asked) in sources.iter().zip(asked) {
            source.0.gate.add_permits(1);
            assert_eq!(asked.await.unwrap(), 1);
        }
    }

    #[tokio::test]
    async fn who_goes_away_leaves_nobody_behind() {
        let (flights, source) = (Flights::<u8, usize>::new(Counter::default()), Source::default());
        let first = ask(&flights, 1, &source);
        settle().await;
        let others: Vec<_> = (0..10).map(|_| ask(&flights, 1, &source)).collect();
        settle().await;
        // The one that runs, then the one that took its place, and one that only waits.
        others[5].abort();
        first.abort();
        settle().await;
        assert_eq!(source.begun(), 2);
        others[0].abort();
        settle().await;
        assert_eq!(source.begun(), 3);
        source.0.gate.add_permits(1);
        for (number, other) in others.into_iter().enumerate() {
            match other.await {
                Ok(answer) => assert_eq!(answer, 3),
                Err(error) => assert!(error.is_cancelled() && [0, 5].contains(&number)),
            }
        }
        assert!(flights.shards.iter().all(|shard| shard.lock().is_empty()), "nothing is kept");
    }
}
