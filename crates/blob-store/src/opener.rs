//! Opens stores of instances by their settings, and tries one out before it is used.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Component, Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use berth_blobs::{Blobs, BlobsError, ObjectKey, ObjectRef, Staging, WriteOpen};
use berth_oci::Algorithm;
use berth_proto::{
    blob_store::{ProbeRequest, ProbeResponse},
    instance_manager::Store as Definition,
};
use berth_service::Tasks;
use bytes::Bytes;
use secrecy::SecretString;

use crate::{
    Error, Filesystem, Keys, Metrics, S3, Sealed,
    own::Own,
    s3::{Bucket, Changing, Resources, Source},
};

/// The longest that a trial takes; its caller waits a little longer.
const TRIAL: Duration = Duration::from_secs(25);
/// What is written then.
const TRIAL_BYTES: &[u8] = b"Berth has tried this storage out.\n";

/// Settings of a folder.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Folder {
    path: PathBuf,
}

/// Settings of a part of the deployment's storage.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Shared {
    /// The deployment's store; the one that takes new blobs if it is not given.
    #[serde(default)]
    store: Option<String>,
}

/// A store that is open.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    pub(crate) blobs: Arc<dyn Blobs>,
    /// For new credentials.
    pub(crate) changing: Option<Arc<Changing>>,
    files: Option<Arc<Filesystem>>,
}

impl Opened {
    /// Whether closing it would have to wait for a writer: a folder is locked as long as one writes to it.
    pub(crate) fn in_use(&self) -> bool {
        Arc::strong_count(&self.blobs) > 1 || self.files.as_ref().is_some_and(|files| files.in_use())
    }
}

/// A store that could be opened, and what is to be known of it.
struct Found {
    opened: Opened,
    /// What is written there as it is, and the id by which it knows itself.
    driver: (Arc<dyn Blobs>, String),
    bucket: Option<S3>,
    /// The bucket or folder: the same for all that have it.
    place: String,
    stages: bool,
    settings: String,
}

/// What stores are opened with; clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Opener(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    deployment: Deployment,
    within: Within,
    tasks: Tasks,
    metrics: Metrics,
    /// Two stores may have one folder, which one process can lock but once.
    folders: tokio::sync::Mutex<HashMap<PathBuf, Weak<Filesystem>>>,
}

/// What all stores share.
#[derive(Clone, Debug)]
pub(crate) struct Within {
    /// Folders below which stores may be.
    pub(crate) directories: Vec<PathBuf>,
    /// The keys of instances.
    pub(crate) keys: Arc<dyn Keys>,
    pub(crate) resources: Resources,
}

/// The storage of the deployment.
#[derive(Clone, Debug)]
pub(crate) struct Deployment {
    /// By their ids; what they hold may be sealed.
    pub(crate) drivers: BTreeMap<String, Arc<dyn Blobs>>,
    /// The one that takes new blobs.
    pub(crate) default: String,
    /// The one in a bucket, and where that is.
    pub(crate) bucket: Option<(String, String)>,
    /// The blob folder.
    pub(crate) root: PathBuf,
}

/// A trial has no other credentials.
#[derive(Debug)]
struct Fixed;

#[async_trait]
impl Source for Fixed {
    async fn ask(&self) -> Option<(String, SecretString)> {
        None
    }
}

fn read<T: serde::de::DeserializeOwned>(settings: &str) -> Result<T, String> {
    serde_json::from_str(settings).map_err(|error| format!("the settings can't be used: {error}"))
}

fn written<T: serde::Serialize>(settings: &T) -> Result<String, String> {
    serde_json::to_string(settings).map_err(|error| error.to_string())
}

/// A folder that may be used: below one of those that the operator allowed, with no link that leads out.
fn check_folder(path: &Path, allowed: &[PathBuf], root: &Path) -> Result<PathBuf, String> {
    let shown = path.display();
    let plain = |step| matches!(step, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(plain) {
        return Err(format!("{shown} has to be an absolute path without .."));
    }
    if allowed.is_empty() {
        return Err(
            "no folders are allowed; blob_store.directories names those below which stores may be".to_owned()
        );
    }
    // What is not there yet can't be a link.
    let mut there = path;
    let mut missing = Vec::new();
    let real = loop {
        match there.canonicalize() {
            Ok(real) => break real,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !there.is_symlink() => {}
            Err(error) => return Err(format!("{} can't be used: {error}", there.display())),
        }
        let (Some(parent), Some(name)) = (there.parent(), there.file_name()) else {
            return Err(format!("{shown} can't be used"));
        };
        missing.push(name);
        there = parent;
    };
    let real = missing.iter().rev().fold(real, |folder, name| folder.join(name));
    let below = |folder: &PathBuf| {
        folder.canonicalize().is_ok_and(|folder| real.starts_with(&folder) && real != folder)
    };
    if !allowed.iter().any(below) {
        return Err(format!("{shown} is not below a folder that blob_store.directories allows"));
    }
    let root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    if real.starts_with(&root) || root.starts_with(&real) {
        return Err(format!("{shown} overlaps with the deployment's blob folder"));
    }
    Ok(real)
}

impl Opener {
    pub(crate) fn new(deployment: Deployment, within: Within, tasks: Tasks, metrics: Metrics) -> Self {
        let folders = tokio::sync::Mutex::default();
        Self(Arc::new(Inner { deployment, within, tasks, metrics, folders }))
    }

    /// Opens a store; what is wrong comes as a sentence.
    pub(crate) async fn open(
        &self,
        definition: &Definition,
        source: Arc<dyn Source>,
    ) -> Result<Opened, String> {
        Ok(self.find(definition, source).await?.opened)
    }

    async fn find(&self, definition: &Definition, source: Arc<dyn Source>) -> Result<Found, String> {
        let Definition { id, instance_id, kind, settings, secret, encrypted } = definition;
        let found = match kind.as_str() {
            "s3" => self.bucket(id, settings, &secret.clone().into(), source)?,
            "directory" => self.folder(settings).await?,
            "shared" => self.shared(settings)?,
            _ => return Err(format!("storage of the kind {kind:?} is not known to this version")),
        };
        let inner_id = if kind == "s3" { id.clone() } else { found.place.clone() };
        let inner_id = inner_id.strip_prefix("shared:").map_or(inner_id.clone(), ToOwned::to_owned);
        // Where new blobs are not sealed, old ones may be.
        let driver = (Arc::clone(&found.opened.blobs), inner_id.clone());
        let sealed = Sealed::new(found.opened.blobs, Arc::clone(&self.0.within.keys), *encrypted);
        let own = Own { instance: instance_id.clone(), blobs: Arc::new(sealed), inner_id };
        let opened = Opened { blobs: Arc::new(own), ..found.opened };
        // Objects of instances have names of their own, so a bucket is looked through for each by itself.
        let place = match kind.as_str() {
            "shared" => found.place,
            _ => format!("{}:{instance_id}", found.place),
        };
        Ok(Found { opened, driver, place, ..found })
    }

    fn bucket(
        &self,
        id: &str,
        settings: &str,
        secret: &SecretString,
        source: Arc<dyn Source>,
    ) -> Result<Found, String> {
        let Inner { deployment, within, tasks, metrics, .. } = &*self.0;
        let bucket: Bucket = read(settings)?;
        bucket.check()?;
        let location = bucket.location();
        if deployment.bucket.as_ref().is_some_and(|(_, taken)| *taken == location) {
            return Err("this is the deployment's own storage; --shared means that".to_owned());
        }
        let changing = Arc::new(Changing::new(&bucket.access_key, secret, source));
        let opened =
            S3::open_bucket(id, &bucket, &changing, within.resources.clone(), tasks.clone(), metrics.clone());
        let store = opened.map_err(|error| match error {
            Error::ObjectStorage(reason) => reason,
            other => other.to_string(),
        })?;
        let opened = Opened { blobs: Arc::new(store.clone()), changing: Some(changing), files: None };
        let (place, settings) = (format!("s3:{location}"), written(&bucket)?);
        Ok(Found {
            driver: (Arc::clone(&opened.blobs), String::new()),
            opened,
            bucket: Some(store),
            place,
            stages: true,
            settings,
        })
    }

    async fn folder(&self, settings: &str) -> Result<Found, String> {
        let Folder { path } = read(settings)?;
        let (allowed, root) = (self.0.within.directories.clone(), self.0.deployment.root.clone());
        let checked = tokio::task::spawn_blocking(move || check_folder(&path, &allowed, &root)).await;
        let path = checked.map_err(|error| error.to_string())??;
        let place = format!("directory:{}", path.display());
        let mut folders = self.0.folders.lock().await;
        folders.retain(|_, files| files.strong_count() > 0);
        let files = match folders.get(&path).and_then(Weak::upgrade) {
            Some(files) => files,
            None => {
                let opened = Filesystem::open(&path, &place, self.0.metrics.clone()).await;
                let files = Arc::new(opened.map_err(|error| match std::error::Error::source(&error) {
                    Some(cause) => format!("{error}: {cause}"),
                    None => error.to_string(),
                })?);
                folders.insert(path.clone(), Arc::downgrade(&files));
                files
            }
        };
        let blobs: Arc<dyn Blobs> = files.clone();
        let opened = Opened { blobs, changing: None, files: Some(files) };
        Ok(Found {
            driver: (Arc::clone(&opened.blobs), String::new()),
            opened,
            bucket: None,
            place,
            stages: false,
            settings: written(&Folder { path })?,
        })
    }

    fn shared(&self, settings: &str) -> Result<Found, String> {
        let deployment = &self.0.deployment;
        let Shared { store } = read(settings)?;
        let id = store.unwrap_or_else(|| deployment.default.clone());
        let blobs = deployment.drivers.get(&id).cloned();
        let blobs = blobs.ok_or_else(|| format!("the deployment has no storage {id:?}"))?;
        let stages = deployment.bucket.as_ref().is_some_and(|(in_bucket, _)| *in_bucket == id);
        let (place, settings) = (format!("shared:{id}"), written(&Shared { store: Some(id) })?);
        let opened = Opened { blobs, changing: None, files: None };
        Ok(Found {
            driver: (Arc::clone(&opened.blobs), String::new()),
            opened,
            bucket: None,
            place,
            stages,
            settings,
        })
    }

    /// Writes an object to a store that nobody uses yet, reads it back, compares and deletes it. What fails comes as a
    /// sentence.
    pub(crate) async fn probe(&self, request: ProbeRequest) -> Result<ProbeResponse, String> {
        let ProbeRequest { store_id, instance_id, kind, settings, secret, encrypted, key } = request;
        let key: ObjectKey = key.parse().map_err(|error: berth_blobs::KeyError| error.to_string())?;
        let definition = Definition { id: store_id, instance_id, kind, settings, secret, encrypted };
        let trial = async {
            let found = self.find(&definition, Arc::new(Fixed)).await?;
            // In the words of the service, where there is one.
            if let Some(bucket) = &found.bucket {
                bucket.probe(&key, Bytes::from_static(TRIAL_BYTES)).await?;
            } else {
                let tried = try_out(&*found.driver.0, &found.driver.1, &key).await;
                tried.map_err(|error| match std::error::Error::source(&error) {
                    Some(cause) => format!("{error}: {cause}"),
                    None => error.to_string(),
                })?;
            }
            Ok(ProbeResponse { place: found.place, stages: found.stages, settings: found.settings })
        };
        let trial = tokio::time::timeout(TRIAL, trial).await;
        trial.unwrap_or_else(|_| Err("it can't be reached: it does not answer in time".to_owned()))
    }
}

async fn try_out(blobs: &dyn Blobs, store_id: &str, key: &ObjectKey) -> Result<(), BlobsError> {
    let mut writer = blobs
        .write(WriteOpen {
            store_id: store_id.to_owned(),
            key: key.clone(),
            epoch: 1,
            offset: 0,
            hash_state: None,
            algorithm: Algorithm::Sha256,
            staging: Staging::default(),
            unit: 1,
            expected: Some(TRIAL_BYTES.len() as u64),
        })
        .await?;
    writer.write(Bytes::from_static(TRIAL_BYTES)).await?;
    writer.close().await?;
    let written = writer.finish().await?;
    let size = TRIAL_BYTES.len() as u64;
    let object =
        ObjectRef { store_id: store_id.to_owned(), key: written.clone(), size, format: 0, sealing: None };
    let read = match blobs.open(&object, None).await {
        Ok(reader) => reader.into_bytes(size).await,
        Err(error) => Err(error),
    };
    blobs.delete(store_id, &written).await?;
    if read? == TRIAL_BYTES {
        Ok(())
    } else {
        Err(BlobsError::Invalid("it gave back other bytes than were written"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test says by a panic what does not hold")]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_below_an_allowed_one_and_no_link_leads_out() {
        let world = tempfile::tempdir().unwrap();
        let at = |name: &str| world.path().join(name);
        for name in ["tenants/a", "elsewhere/x", "blobs"] {
            std::fs::create_dir_all(at(name)).unwrap();
        }
        std::os::unix::fs::symlink(at("elsewhere"), at("tenants/out")).unwrap();
        std::os::unix::fs::symlink(at("nowhere"), at("tenants/dangling")).unwrap();
        std::os::unix::fs::symlink(at("tenants"), at("alias")).unwrap();
        let allowed = [at("tenants")];
        let check = |path: PathBuf| check_folder(&path, &allowed, &at("blobs"));
        let real = world.path().canonicalize().unwrap();
        assert_eq!(check(at("tenants/a")).unwrap(), real.join("tenants/a"));
        assert_eq!(check(at("tenants/new/deep")).unwrap(), real.join("tenants/new/deep"));
        assert_eq!(check(at("alias/a")).unwrap(), real.join("tenants/a"), "one folder has one name");
        for wrong in [
            at("tenants"),
            at("elsewhere/x"),
            at("tenants/../elsewhere/x"),
            at("tenants/out"),
            at("tenants/out/x"),
            at("tenants/dangling"),
            at("tenants/dangling/x"),
            at("blobs"),
            PathBuf::from("tenants/a"),
        ] {
            assert!(check(wrong.clone()).is_err(), "{}", wrong.display());
        }
        assert!(check_folder(&at("tenants/a"), &[], &at("blobs")).is_err());
        assert!(check_folder(&at("tenants/a"), &allowed, &at("tenants/a/blobs")).is_err());
    }
}
