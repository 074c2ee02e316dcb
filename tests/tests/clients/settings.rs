//! Where bytes may be, one deployment for each, shared by all clients.

use std::time::{Duration, Instant};

use berth_testkit::{Deployment, Setting};
use tokio::sync::{Mutex, OnceCell};

/// Where bytes are.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Folder,
    Bucket,
    EncryptedFolder,
    EncryptedBucket,
}

/// The deployment, started by the first test that asks.
pub(crate) async fn shared(place: Place) -> &'static Deployment {
    static SHARED: [OnceCell<Deployment>; 4] = [const { OnceCell::const_new() }; 4];
    let setting = match place {
        Place::Folder => Setting::EMBEDDED,
        Place::Bucket => Setting::EMBEDDED.on_bucket(),
        Place::EncryptedFolder => Setting::EMBEDDED.sealed(),
        Place::EncryptedBucket => Setting::EMBEDDED.on_bucket().sealed(),
    };
    let start = || async { Deployment::builder(setting).start().await.unwrap() };
    SHARED[place as usize].get_or_init(start).await
}

/// How often a deployment is verified at most, all that is in it each time.
const VERIFY: Duration = Duration::from_secs(20);

/// A case has ended well: what it and all before it left has to be sound, while others go on.
pub(crate) async fn ended(place: Place) {
    static VERIFIED: [Mutex<Option<Instant>>; 4] = [const { Mutex::const_new(None) }; 4];
    let mut verified = VERIFIED[place as usize].lock().await;
    if verified.is_none_or(|at| at.elapsed() >= VERIFY) {
        shared(place).await.is_sound().await.unwrap();
        *verified = Some(Instant::now());
    }
}

/// Makes four tests of every case: `signatures::in_an_encrypted_bucket`. A case takes a `&'static Deployment`, which it
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
