//! What leaves the registry as a whole blob has its digest: the last bytes of a body are held back until all of them were
//! hashed, so that damage in a store ends the connection and is never taken for content. Damage that a second look
//! confirms takes the blob out of service, until somebody pushes it again.
//!
//! Files of this machine are hashed when they are first read, and again a day later: the page cache gives the same bytes
//! in between, and the scrubber reads all of them in its own time.

use std::{sync::Arc, time::Duration};

use berth_blobs::{BlobReader, Blobs, BlobsError, ObjectRef};
use berth_model::InstanceId;
use berth_oci::{Digest, Hasher};
use berth_proto::metadata::{QuarantineBlobRequest, metadata_client::MetadataClient};
use berth_service::{Channel, Tasks};
use bytes::Bytes;
use futures::{StreamExt, stream, stream::BoxStream};
use moka::sync::Cache;
use tokio::sync::Semaphore;

/// How long a file that was hashed is taken for whole.
const TRUSTED: Duration = Duration::from_secs(24 * 3600);
/// The most files that are remembered.
const MAX_TRUSTED: u64 = 100_000;
/// Objects that are looked at again at the same time.
const SECOND_LOOKS: usize = 2;

/// A body in steps.
pub(crate) type Steps = BoxStream<'static, Result<Bytes, BlobsError>>;

/// What is known of the bytes in the stores. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Whole {
    blobs: Arc<dyn Blobs>,
    metadata: MetadataClient<Channel>,
    tasks: Tasks,
    /// Keys of objects that were hashed lately.
    trusted: Cache<String, ()>,
    /// Keys of objects that are being looked at again, or were lately.
    suspects: Cache<String, ()>,
    looks: Arc<Semaphore>,
}

impl Whole {
    pub(crate) fn new(blobs: Arc<dyn Blobs>, metadata: MetadataClient<Channel>, tasks: Tasks) -> Self {
        Self {
            blobs,
            metadata,
            tasks,
            trusted: Cache::builder().max_capacity(MAX_TRUSTED).time_to_live(TRUSTED).build(),
            suspects: Cache::builder().max_capacity(10_000).time_to_live(Duration::from_secs(60)).build(),
            looks: Arc::new(Semaphore::new(SECOND_LOOKS)),
        }
    }

    /// The bytes of a whole blob. Those that do not have its digest end in an error before the last of them.
    pub(crate) fn read(&self, subject: Subject, reader: BlobReader) -> Steps {
        let is_file = matches!(reader, BlobReader::File { .. });
        let steps = reader.into_stream();
        if is_file && self.trusted.contains_key(subject.object.key.as_str()) {
            return steps;
        }
        let steps = self.watched(subject.clone(), steps);
        let known = self.clone();
        verified(steps, subject.digest, move |outcome| match outcome {
            Ok(()) if is_file => known.trusted.insert(subject.object.key.to_string(), ()),
            Ok(()) => {}
            Err(found) => {
                let key = subject.object.key.as_str();
                tracing::error!(%found, digest = %subject.digest, key, "a blob's bytes have another digest");
                known.suspect(subject);
            }
        })
    }

    /// Whether a file was hashed lately and had its digest.
    pub(crate) fn trusts(&self, object: &ObjectRef) -> bool {
        self.trusted.contains_key(object.key.as_str())
    }

    /// The same bytes; when they end in damage that the store has noticed, the object is suspect.
    pub(crate) fn watched(&self, subject: Subject, steps: Steps) -> Steps {
        let known = self.clone();
        steps
            .inspect(move |step| {
                if let Err(error @ BlobsError::Damaged(_)) = step {
                    let key = subject.object.key.as_str();
                    tracing::error!(%error, digest = %subject.digest, key, "a blob's bytes do not open");
                    known.suspect(subject.clone());
                }
            })
            .boxed()
    }

    /// Looks at an object a second time, and takes its blob out of service when it is damaged. The answer that was under
    /// way does not wait for it.
    pub(crate) fn suspect(&self, subject: Subject) {
        let key = subject.object.key.to_string();
        self.trusted.invalidate(&key);
        if !self.suspects.entry(key).or_insert(()).is_fresh() {
            return;
        }
        let known = self.clone();
        let _runs_by_itself = self.tasks.spawn("look at a damaged blob again", async move {
            let Ok(_permit) = known.looks.acquire().await else { return };
            known.look_again(subject).await;
        });
    }

    async fn look_again(&self, subject: Subject) {
        let Subject { instance, digest, object } = subject;
        let again = self.blobs.rehash(&object, digest.algorithm());
        let mut key_id = String::new();
        let damage = match again.await {
            Ok(found) if found == digest => {
                tracing::warn!(
                    key = object.key.as_str(),
                    "the object is whole; its bytes were damaged on the way"
                );
                return;
            }
            Ok(_) | Err(BlobsError::Damaged(_)) => "wrong_digest",
            Err(BlobsError::KeyGone) => {
                key_id = object.sealing.map(|sealing| sealing.key_id).unwrap_or_default();
                "key_gone"
            }
            Err(BlobsError::Short { .. }) => "short",
            Err(BlobsError::NotFound) => "missing",
            Err(error) => {
                tracing::warn!(%error, key = object.key.as_str(), "a suspect blob can't be looked at again");
                return;
            }
        };
        let wanted = QuarantineBlobRequest {
            instance_id: instance.to_string(),
            digest: digest.to_string(),
            object_key: object.key.to_string(),
            damage: damage.to_owned(),
            key_id,
        };
        if let Err(status) = self.metadata.clone().quarantine_blob(wanted).await {
            tracing::error!(cause = status.message(), "a damaged blob could not be taken out of service");
        }
    }
}

/// A blob that is read.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) instance: InstanceId,
    pub(crate) digest: Digest,
    pub(crate) object: ObjectRef,
}

/// Passes bytes on, one step behind, and the last step only when all of them have `digest`. `judged` hears of the end:
/// nothing when the stream failed by itself.
fn verified(steps: Steps, digest: Digest, judged: impl FnOnce(Result<(), Digest>) + Send + 'static) -> Steps {
    struct State<F> {
        steps: Steps,
        hasher: Hasher,
        held: Option<Bytes>,
        judged: F,
    }
    let state = State { steps, hasher: Hasher::new(digest.algorithm()), held: None, judged };
    stream::unfold(Some(state), move |state| async move {
        let mut state = state?;
        loop {
            match state.steps.next().await {
                Some(Ok(bytes)) => {
                    state.hasher.update(&bytes);
                    if let Some(earlier) = state.held.replace(bytes) {
                        return Some((Ok(earlier), Some(state)));
                    }
                }
                Some(Err(error)) => return Some((Err(error), None)),
                None => {
                    let found = state.hasher.finish();
                    if found == digest {
                        (state.judged)(Ok(()));
                        return state.held.map(|last| (Ok(last), None));
                    }
                    (state.judged)(Err(found));
                    return Some((Err(BlobsError::Invalid("the stored bytes have another digest")), None));
                }
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use berth_oci::Algorithm;

    use super::*;

    async fn pass(steps: Vec<Result<Bytes, BlobsError>>, digest: Digest) -> (Vec<u8>, bool, Option<bool>) {
        let heard = Arc::new(Mutex::new(None));
        let hears = Arc::clone(&heard);
        let mut out = verified(stream::iter(steps).boxed(), digest, move |outcome| {
            *hears.lock().unwrap() = Some(outcome.is_ok());
        });
        let (mut passed, mut failed) = (Vec::new(), false);
        while let Some(step) = out.next().await {
            match step {
                Ok(bytes) => passed.extend_from_slice(&bytes),
                Err(_) => failed = true,
            }
        }
        let heard = *heard.lock().unwrap();
        (passed, failed, heard)
    }

    fn steps(content: &[u8], size: usize) -> Vec<Result<Bytes, BlobsError>> {
        content.chunks(size).map(|step| Ok(Bytes::copy_from_slice(step))).collect()
    }

    #[tokio::test]
    async fn whole_content_passes_unchanged() {
        for content in [&b""[..], b"a", b"some content of several steps"] {
            let digest = Digest::of(Algorithm::Sha256, content);
            for size in [1, 7, 100] {
                let (passed, failed, heard) = pass(steps(content, size), digest).await;
                assert_eq!((passed.as_slice(), failed, heard), (content, false, Some(true)));
            }
        }
    }

    #[tokio::test]
    async fn damage_never_looks_complete() {
        let content = b"some content of several steps";
        let digest = Digest::of(Algorithm::Sha256, content);
        for place in 0..content.len() {
            let mut damaged = content.to_vec();
            damaged[place] ^= 1;
            for size in [1, 7, 100] {
                let (passed, failed, heard) = pass(steps(&damaged, size), digest).await;
                assert!(passed.len() < content.len() && failed && heard == Some(false));
            }
        }
    }

    #[tokio::test]
    async fn a_stream_that_fails_is_not_called_damaged() {
        let mut cut = steps(b"some content", 4);
        cut.push(Err(BlobsError::Short { expected: 20, found: 12 }));
        let (passed, failed, heard) = pass(cut, Digest::of(Algorithm::Sha256, b"some content")).await;
        assert_eq!((passed.as_slice(), failed, heard), (&b"some con"[..], true, None));
    }
}
