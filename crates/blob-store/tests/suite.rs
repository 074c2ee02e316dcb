//! Both implementations of this crate against the one suite.
#![allow(clippy::unwrap_used, reason = "a test says by a panic what does not hold")]

use std::{path::PathBuf, sync::Arc};

use berth_blob_store::{Filesystem, Metrics, RemoteBlobs, serve};
use berth_blobs::{
    Blobs,
    suite::{Cut, Fixture},
};
use berth_service::{Channel, Limits, Listener, Tasks};

async fn files() -> (tempfile::TempDir, Arc<dyn Blobs>) {
    let folder = tempfile::tempdir().unwrap();
    let blobs = Filesystem::open(folder.path(), "default", Metrics::default()).await.unwrap();
    (folder, Arc::new(blobs))
}

fn cutter(root: PathBuf) -> Cut {
    Box::new(move |key, length| {
        let object = key.object();
        let folder = root.join("i").join(key.instance()).join(&object[object.len() - 2..]);
        let file = std::fs::File::options().write(true).open(folder.join(object)).unwrap();
        file.set_len(length).unwrap();
    })
}

mod filesystem {
    use super::*;

    async fn make() -> Fixture {
        let (folder, blobs) = files().await;
        let cut = cutter(folder.path().to_owned());
        Fixture {
            blobs,
            store_id: "default".to_owned(),
            cut,
            in_place: true,
            sealed: false,
            cut_under_readers: true,
            keep: Box::new(folder),
        }
    }

    berth_blobs::blobs_suite!(make);
}

mod remote_over_a_socket {
    use super::*;

    async fn make() -> Fixture {
        let (folder, blobs) = files().await;
        let cut = cutter(folder.path().to_owned());
        let socket = tempfile::tempdir().unwrap();
        let address = format!("unix:{}", socket.path().join("blob-store.sock").display());
        let listener = Listener::bind("grpc", &address.parse().unwrap()).await.unwrap();
        let tasks = Tasks::new();
        let routes = tonic::service::Routes::new(serve(blobs)).prepare();
        berth_service::serve(listener, routes, Limits::default(), &tasks);
        let blobs = Arc::new(RemoteBlobs::new(Channel::remote("blob-store", &address).unwrap()));
        Fixture {
            blobs,
            store_id: "default".to_owned(),
            cut,
            in_place: true,
            sealed: false,
            cut_under_readers: true,
            keep: Box::new((folder, socket, tasks)),
        }
    }

    berth_blobs::blobs_suite!(make);
}

mod remote_in_this_process {
    use super::*;

    async fn make() -> Fixture {
        let (folder, blobs) = files().await;
        let cut = cutter(folder.path().to_owned());
        let blobs = Arc::new(RemoteBlobs::new(Channel::local("blob-store", serve(blobs))));
        Fixture {
            blobs,
            store_id: "default".to_owned(),
            cut,
            in_place: true,
            sealed: false,
            cut_under_readers: true,
            keep: Box::new(folder),
        }
    }

    berth_blobs::blobs_suite!(make);
}
