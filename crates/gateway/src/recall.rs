//! What metadata last said about content, for the time in which it says nothing: a pull by digest goes on while metadata
//! restarts. Only answers of this gateway, at most ten minutes old, and only for a token that carries the repository's
//! id. What metadata refused later is forgotten.

use std::time::Duration;

use berth_model::{InstanceId, RepositoryId};
use berth_oci::Digest;
use berth_proto::metadata::ResolveResponse;
use moka::sync::Cache;
use tokio::time::Instant;

/// How old an answer may be that is repeated.
const MAX_AGE: Duration = Duration::from_secs(600);
/// A younger answer is not kept again, which would cost every warm pull a write.
const REFRESH_AGE: Duration = Duration::from_secs(60);
/// The most answers that are kept; each takes less than a kibibyte.
const MAX_ANSWERS: u64 = 50_000;
/// The most repositories whose refusal is remembered.
const MAX_REFUSALS: u64 = 10_000;

/// What an answer is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Key {
    pub(crate) instance: InstanceId,
    pub(crate) repository: RepositoryId,
    pub(crate) digest: Digest,
    /// A blob and a manifest may have the same digest.
    pub(crate) blob: bool,
}

#[derive(Clone, Debug)]
struct Said {
    answer: ResolveResponse,
    at: Instant,
}

/// The positive answers of metadata, bounded in number and age.
#[derive(Clone, Debug)]
pub(crate) struct Recall {
    answers: Cache<Key, Said>,
    /// When a repository was last found gone or closed: nothing that was said before is repeated.
    refusals: Cache<RepositoryId, Instant>,
}

impl Default for Recall {
    fn default() -> Self {
        // The age is judged at use; letting go after it only frees the memory.
        Self {
            answers: Cache::builder().max_capacity(MAX_ANSWERS).time_to_live(MAX_AGE).build(),
            refusals: Cache::builder().max_capacity(MAX_REFUSALS).time_to_live(MAX_AGE).build(),
        }
    }
}

impl Recall {
    /// Keeps a positive answer.
    pub(crate) fn keep(&self, key: Key, answer: &ResolveResponse) {
        if let Some(said) = self.answers.get(&key) {
            if said.answer.public && !answer.public {
                self.refused(key.repository);
            } else if said.answer == *answer && said.at.elapsed() < REFRESH_AGE && self.holds(&key, &said) {
                return;
            }
        }
        self.answers.insert(key, Said { answer: answer.clone(), at: Instant::now() });
    }

    /// Metadata said that the content is not there, or it was deleted.
    pub(crate) fn forget(&self, key: &Key) {
        self.answers.invalidate(key);
    }

    /// The repository is gone, or closed to whom it was open.
    pub(crate) fn refused(&self, repository: RepositoryId) {
        self.refusals.insert(repository, Instant::now());
    }

    /// The last answer, if it may still be repeated.
    pub(crate) fn repeat(&self, key: &Key) -> Option<ResolveResponse> {
        let said = self.answers.get(key)?;
        (said.at.elapsed() <= MAX_AGE && self.holds(key, &said)).then_some(said.answer)
    }

    fn holds(&self, key: &Key, said: &Said) -> bool {
        self.refusals.get(&key.repository).is_none_or(|refused| said.at >= refused)
    }
}

#[cfg(test)]
mod tests {
    use berth_oci::Algorithm;
    use berth_service::{Ids, ManualClock, Timestamp};

    use super::*;

    fn case() -> (Recall, Key, ResolveResponse) {
        let ids = Ids::seeded(5, ManualClock::at(Timestamp(0)));
        let key = Key {
            instance: InstanceId::new(ids.ulid()),
            repository: RepositoryId::new(ids.ulid()),
            digest: Digest::of(Algorithm::Sha256, b"x"),
            blob: true,
        };
        (Recall::default(), key, ResolveResponse { public: true, ..ResolveResponse::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_repeated_for_ten_minutes_after_it_was_given() {
        let (recall, key, answer) = case();
        assert_eq!(recall.repeat(&key), None);
        recall.keep(key, &answer);
        tokio::time::advance(MAX_AGE).await;
        assert_eq!(recall.repeat(&key), Some(answer.clone()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(recall.repeat(&key), None);
        recall.keep(key, &answer);
        tokio::time::advance(REFRESH_AGE).await;
        recall.keep(key, &answer);
        tokio::time::advance(MAX_AGE).await;
        assert_eq!(recall.repeat(&key), Some(answer), "given again a minute later");
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_no_is_not_overruled_by_an_earlier_yes() {
        let (recall, key, answer) = case();
        recall.keep(key, &answer);
        recall.forget(&key);
        assert_eq!(recall.repeat(&key), None);
        recall.keep(key, &answer);
        tokio::time::advance(Duration::from_secs(1)).await;
        recall.refused(key.repository);
        assert_eq!(recall.repeat(&key), None);
        recall.keep(key, &answer);
        assert_eq!(recall.repeat(&key), Some(answer.clone()));
        // Closed to the public: what was said of its other content while it was open is void.
        let other = Key { digest: Digest::of(Algorithm::Sha256, b"y"), ..key };
        recall.keep(other, &answer);
        tokio::time::advance(Duration::from_secs(1)).await;
        let closed = ResolveResponse { public: false, ..answer };
        recall.keep(key, &closed);
        assert_eq!(recall.repeat(&key), Some(closed));
        assert_eq!(recall.repeat(&other), None);
    }

    #[test]
    fn other_keys_get_nothing() {
        let (recall, key, answer) = case();
        recall.keep(key, &answer);
        let ids = Ids::seeded(6, ManualClock::at(Timestamp(0)));
        let others = [
            Key { instance: InstanceId::new(ids.ulid()), ..key },
            Key { repository: RepositoryId::new(ids.ulid()), ..key },
            Key { digest: Digest::of(Algorithm::Sha256, b"y"), ..key },
            Key { blob: false, ..key },
        ];
        for other in others {
            assert_eq!(recall.repeat(&other), None);
        }
    }
}
