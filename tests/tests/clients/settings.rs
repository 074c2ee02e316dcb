//! Where bytes may be, one deployment for each, shared by all clients.

use std::time::{Duration, Instant};

use berth_testkit::{Blob, Deployment, ObjectStorage, Setting, eventually};
use tokio::sync::{Mutex, OnceCell};

/// Where bytes are.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Folder,
    Bucket,
    EncryptedFolder,
    EncryptedBucket,
    /// Clients are sent there for blobs.
    BucketOfClients,
}

/// The deployment, started by the first test that asks.
pub(crate) async fn shared(place: Place) -> &'static Deployment {
    static SHARED: [OnceCell<Deployment>; 5] = [const { OnceCell::const_new() }; 5];
    let setting = match place {
        Place::Folder => Setting::EMBEDDED,
        Place::Bucket => Setting::EMBEDDED.on_bucket(),
        Place::EncryptedFolder => Setting::EMBEDDED.sealed(),
        Place::EncryptedBucket => Setting::EMBEDDED.on_bucket().sealed(),
        Place::BucketOfClients => return redirecting().await.0,
    };
    let start = || async { Deployment::builder(setting).start().await.unwrap() };
    SHARED[place as usize].get_or_init(start).await
}

/// A deployment that sends clients to its object storage for blobs.
async fn redirecting() -> (&'static Deployment, &'static ObjectStorage) {
    static SHARED: OnceCell<(Deployment, ObjectStorage)> = OnceCell::const_new();
    let start = || async {
        let storage = ObjectStorage::start();
        // Another name than the registry's: Go sends a token along to another port of the same host.
        let public = format!("http://localhost:{}", storage.address().port());
        let builder =
            Deployment::builder(Setting::EMBEDDED).with_env("BERTH__BLOB_STORE__S3__PUBLIC_ENDPOINT", public);
        let deployment = storage.holds_blobs_of(builder).start().await.unwrap();
        deployment.admin(&["set-blob-delivery", "default", "redirect"], "").await.unwrap();
        let probe = deployment.client().repository("probe/of/redirects");
        let blob = Blob::new("text/plain", "a blob to be sent away for");
        probe.push_blob(&blob).await.unwrap();
        let target = format!("/blobs/{}", blob.digest);
        let sent_away = async || (probe.get(&target).await.unwrap().status == 307).then_some(());
        eventually("clients are sent to the storage", sent_away).await.unwrap();
        (deployment, storage)
    };
    let (deployment, storage) = SHARED.get_or_init(start).await;
    (deployment, storage)
}

/// How often a deployment is verified at most, all that is in it each time.
const VERIFY: Duration = Duration::from_secs(20);

/// A case has ended well: what it and all before it left has to be sound, while others go on.
pub(crate) async fn ended(place: Place) {
    static VERIFIED: [Mutex<Option<Instant>>; 5] = [const { Mutex::const_new(None) }; 5];
    if let Place::BucketOfClients = place {
        let log = redirecting().await.1.log();
        assert!(log.iter().any(|line| line.contains("X-Amz-Signature=")), "no client came to the storage");
    }
    let mut verified = VERIFIED[place as usize].lock().await;
    if verified.is_none_or(|at| at.elapsed() >= VERIFY) {
        shared(place).await.is_sound().await.unwrap();
        *verified = Some(Instant::now());
    }
}

/// Makes five tests of every case: `signatures::in_an_encrypted_bucket`. A case takes a `&'static Deployment`, which it
/// shares with other cases: it uses names of its own.
macro_rules! wherever_bytes_are {
    ($(async fn $case:ident($deployment:ident : &'static Deployment) $body:block)*) => {$(
        mod $case {
            #[allow(unused_imports, reason = "cases differ in what they use")]
            use super::*;

            async fn case($deployment: &'static berth_testkit::Deployment) $body

            wherever_bytes_are! { @tests
                in_a_folder Folder;
                in_a_bucket Bucket;
                in_an_encrypted_folder EncryptedFolder;
                in_an_encrypted_bucket EncryptedBucket;
                in_a_bucket_that_clients_are_sent_to BucketOfClients;
            }
        }
    )*};
    (@tests $($test:ident $place:ident;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            case($crate::settings::shared($crate::settings::Place::$place).await).await;
            $crate::settings::ended($crate::settings::Place::$place).await;
        }
    )*};
}
