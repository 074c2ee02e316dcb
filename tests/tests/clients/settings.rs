//! Where bytes may be, one deployment for each, shared by all clients.

use berth_testkit::{Deployment, Setting};
use tokio::sync::OnceCell;

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
        }
    )*};
}
