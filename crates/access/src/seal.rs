//! The root sealing key, and secrets sealed under it. One file for each deployment; whoever has it and the database has
//! everything, whoever lost it has lost every sealed secret. Its backup is described in docs/operating.md.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    digest::{SHA256, digest},
    rand,
};
use zeroize::Zeroizing;

/// A key or a secret that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key's file can't be read or made.
    #[error("the root key {path} can't be used")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others than the owner may read the key's file.
    #[error("the root key {path} is open to other users of this machine; run: chmod 600 {path}")]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// The key's file does not hold a key.
    #[error("the root key {path} does not hold 32 bytes; restore it from its backup")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The secret was sealed by another key.
    #[error("a secret was sealed by another root key; restore the root key that belongs to this database")]
    OtherKey,
    /// The sealed secret is damaged or belongs elsewhere.
    #[error("a sealed secret is damaged or was moved")]
    Sealed,
    /// A fault of the server.
    #[error("the cryptographic library failed")]
    Crypto,
}

/// What seals the secrets from which others hang: the root key's file, or a service that keeps such a key and never
/// hands it out.
#[async_trait]
pub trait Sealer: Send + Sync + fmt::Debug {
    /// Seals a secret for one place: `purpose` says what it is and `id` whose; it opens nowhere else.
    async fn seal_secret(&self, purpose: &str, id: &str, secret: &[u8]) -> Result<Vec<u8>, SealError>;

    /// Opens what was sealed for the same place.
    async fn open_secret(
        &self,
        purpose: &str,
        id: &str,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError>;
}

#[async_trait]
impl Sealer for RootKey {
    async fn seal_secret(&self, purpose: &str, id: &str, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        self.seal(purpose, id, secret)
    }

    async fn open_secret(
        &self,
        purpose: &str,
        id: &str,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        self.open(purpose, id, sealed)
    }
}

/// The first byte of everything sealed.
const FORMAT: u8 = 1;
const KEY_ID_LEN: usize = 4;
const HEADER_LEN: usize = 1 + KEY_ID_LEN + NONCE_LEN;

/// The key from which secrets at rest hang. Beside its file there may be that of the former one, which only opens.
pub struct RootKey {
    key: LessSafeKey,
    id: [u8; KEY_ID_LEN],
    former: Option<Box<RootKey>>,
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootKey({})", hex::encode(self.id))
    }
}

impl RootKey {
    fn new(bytes: &[u8; 32]) -> Result<Self, SealError> {
        let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| SealError::Crypto)?;
        let mut named = Zeroizing::new(b"berth root key id".to_vec());
        named.extend_from_slice(bytes);
        let mut id = [0; KEY_ID_LEN];
        id.copy_from_slice(&digest(&SHA256, &named).as_ref()[..KEY_ID_LEN]);
        Ok(Self { key: LessSafeKey::new(key), id, former: None })
    }

    /// Reads the key, or makes it on first start. Safe with two processes: one makes it, both have it.
    pub fn open_or_create(path: &Path) -> Result<Self, SealError> {
        let failed = |source| SealError::File { path: path.to_owned(), source };
        let key = match Self::open_file(path) {
            Err(SealError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Self::create(path).map_err(failed)?;
                Self::open_file(path)?
            }
            outcome => outcome?,
        };
        // A start that was cut short may have left its name unsynced, and a draft that is a key as well.
        settle(path).map_err(failed)?;
        Ok(key)
    }

    /// Reads the key, which must exist, and the former one, if its file is still there.
    pub fn open_file(path: &Path) -> Result<Self, SealError> {
        let mut key = Self::read(path)?;
        match Self::read(&former_of(path)) {
            Ok(former) => key.former = Some(Box::new(former)),
            Err(SealError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(key)
    }

    /// Makes another key the one at `path`, and keeps this one beside it under the name that ends in `.former`. Cut short,
    /// it can be called again; while a former key is there that is another, it changes nothing and says false.
    pub fn rotate(path: &Path) -> Result<bool, SealError> {
        let failed = |source| SealError::File { path: path.to_owned(), source };
        let current = Self::open_file(path)?;
        match &current.former {
            Some(former) if former.id != current.id => return Ok(false),
            Some(_) => {}
            None => fs::hard_link(path, former_of(path)).map_err(failed)?,
        }
        // Its name is durable before the current one's is another's.
        settle(path).map_err(failed)?;
        let draft = Self::draft(path).map_err(failed)?;
        fs::rename(&draft, path).map_err(failed)?;
        settle(path).map_err(failed)?;
        Ok(true)
    }

    /// Removes the former key for good: nothing that it has sealed can be opened any more.
    pub fn forget_former(path: &Path) -> Result<(), SealError> {
        let former = former_of(path);
        let failed = |source| SealError::File { path: former.clone(), source };
        match fs::remove_file(&former) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        settle(path).map_err(failed)
    }

    /// Whether a secret was sealed by the former key.
    pub fn is_by_former(&self, envelope: &[u8]) -> bool {
        let by = envelope.get(1..=KEY_ID_LEN);
        by != Some(self.id.as_slice())
            && self.former.as_ref().is_some_and(|former| by == Some(former.id.as_slice()))
    }

    fn read(path: &Path) -> Result<Self, SealError> {
        let failed = |source| SealError::File { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.mode() & 0o077 != 0 {
            return Err(SealError::Exposed { path: path.to_owned() });
        }
        let mut bytes = Zeroizing::new([0; 32]);
        if metadata.len() != 32 || file.read_exact(bytes.as_mut()).is_err() {
            return Err(SealError::Damaged { path: path.to_owned() });
        }
        Self::new(&bytes)
    }

    /// Writes a whole, durable file beside `path` and links it there, so that nobody ever sees half a key and of two
    /// processes only one succeeds.
    fn create(path: &Path) -> io::Result<()> {
        let draft = Self::draft(path)?;
        let linked = fs::hard_link(&draft, path);
        // Either there is a key by now, whoever made it and removed the drafts, or this has failed.
        let _removed_by_another = fs::remove_file(&draft);
        match linked {
            Err(_) if path.exists() => Ok(()),
            outcome => outcome,
        }
    }

    /// A new key in a whole, durable file beside `path`.
    fn draft(path: &Path) -> io::Result<PathBuf> {
        let random = |bytes: &mut [u8]| rand::fill(bytes).map_err(|_| io::Error::other("no random bytes"));
        let (mut bytes, mut suffix) = (Zeroizing::new([0; 32]), [0; 8]);
        random(bytes.as_mut())?;
        random(&mut suffix)?;
        let draft = path.with_extension(format!("{}.new", hex::encode(suffix)));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(bytes.as_ref())?;
        file.sync_all()?;
        Ok(draft)
    }

    /// Seals a secret for one place: `purpose` says what it is and `id` whose; it opens nowhere else.
    pub fn seal(&self, purpose: &str, id: &str, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).map_err(|_| SealError::Crypto)?;
        let mut sealed = secret.to_vec();
        let place = place(purpose, id);
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(place), &mut sealed)
            .map_err(|_| SealError::Crypto)?;
        let mut envelope = Vec::with_capacity(HEADER_LEN + sealed.len());
        envelope.push(FORMAT);
        envelope.extend_from_slice(&self.id);
        envelope.extend_from_slice(&nonce);
        envelope.append(&mut sealed);
        Ok(envelope)
    }

    /// Opens what [`Self::seal`] sealed for the same place.
    pub fn open(&self, purpose: &str, id: &str, envelope: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (header, sealed) = envelope.split_at_checked(HEADER_LEN).ok_or(SealError::Sealed)?;
        if header[0] != FORMAT {
            return Err(SealError::Sealed);
        }
        if header[1..=KEY_ID_LEN] != self.id {
            let former = self.former.as_ref().ok_or(SealError::OtherKey)?;
            return former.open(purpose, id, envelope);
        }
        let nonce =
            Nonce::try_assume_unique_for_key(&header[1 + KEY_ID_LEN..]).map_err(|_| SealError::Sealed)?;
        let mut secret = Zeroizing::new(sealed.to_vec());
        let length = self
            .key
            .open_in_place(nonce, Aad::from(place(purpose, id)), secret.as_mut_slice())
            .map_err(|_| SealError::Sealed)?
            .len();
        secret.truncate(length);
        Ok(secret)
    }
}

/// The associated data: lengths keep ("ab", "c") and ("a", "bc") apart.
pub(crate) fn place(purpose: &str, id: &str) -> Vec<u8> {
    let mut place = Vec::with_capacity(purpose.len() + id.len() + 17);
    place.push(FORMAT);
    for part in [purpose, id] {
        place.extend_from_slice(&(part.len() as u64).to_be_bytes());
        place.extend_from_slice(part.as_bytes());
    }
    place
}

/// Where the former key of the one at `path` is.
fn former_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".former");
    name.into()
}

/// Removes drafts of the key at `path` and makes its name durable. Another process that is at its own first start finds
/// the key there when it loses its draft.
fn settle(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let random =
            name.to_str().and_then(|name| name.strip_prefix(stem)?.strip_prefix('.')?.strip_suffix(".new"));
        if random
            .is_some_and(|random| random.len() == 16 && random.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_only_its_owner_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let first = RootKey::open_or_create(&path).unwrap();
        assert_eq!(first.id, RootKey::open_or_create(&path).unwrap().id);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = RootKey::open_or_create(&path).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"short").unwrap();
        assert!(matches!(RootKey::open_or_create(&path), Err(SealError::Damaged { .. })));
    }

    #[test]
    fn racing_processes_get_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let ids: Vec<_> = std::thread::scope(|scope| {
            let open = || RootKey::open_or_create(&path).unwrap().id;
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(open)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn drafts_of_a_start_that_was_cut_short_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let draft = folder.path().join("root.0123456789abcdef.new");
        let others = ["root.new", "root.0123.new", "other.0123456789abcdef.new"];
        for name in others {
            fs::write(folder.path().join(name), b"not ours").unwrap();
        }
        fs::write(&draft, [7; 32]).unwrap();
        RootKey::open_or_create(&path).unwrap();
        assert!(!draft.exists());
        assert!(others.iter().all(|name| folder.path().join(name).exists()));
    }

    #[test]
    fn what_the_former_key_has_sealed_opens_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.key");
        let old = RootKey::open_or_create(&path).unwrap();
        let by_old = old.seal("token key", "a", b"secret").unwrap();
        // Cut short after its first step, it goes on.
        fs::hard_link(&path, former_of(&path)).unwrap();
        assert_eq!(RootKey::open_file(&path).unwrap().id, old.id);
        assert!(RootKey::rotate(&path).unwrap());
        let new = RootKey::open_or_create(&path).unwrap();
        assert_ne!(new.id, old.id);
        assert_eq!(new.open("token key", "a", &by_old).unwrap().as_slice(), b"secret");
        let by_new = new.seal("token key", "a", b"secret").unwrap();
        assert!(new.is_by_former(&by_old) && !new.is_by_former(&by_new) && !old.is_by_former(&by_old));
        assert!(matches!(old.open("token key", "a", &by_new), Err(SealError::OtherKey)));
        // One former key at a time, whatever is asked for.
        assert!(!RootKey::rotate(&path).unwrap());
        assert_eq!(RootKey::open_file(&path).unwrap().id, new.id);
        for _ in 0..2 {
            RootKey::forget_former(&path).unwrap();
        }
        let alone = RootKey::open_file(&path).unwrap();
        assert!(matches!(alone.open("token key", "a", &by_old), Err(SealError::OtherKey)));
        assert_eq!(alone.open("token key", "a", &by_new).unwrap().as_slice(), b"secret");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_secret_opens_only_in_its_place() {
        let (key, other) = (RootKey::new(&[7; 32]).unwrap(), RootKey::new(&[8; 32]).unwrap());
        let sealed = key.seal("token key", "a", b"secret").unwrap();
        assert_ne!(sealed, key.seal("token key", "a", b"secret").unwrap());
        assert_eq!(key.open("token key", "a", &sealed).unwrap().as_slice(), b"secret");
        assert!(matches!(key.open("token key", "b", &sealed), Err(SealError::Sealed)));
        assert!(matches!(key.open("token ke", "ya", &sealed), Err(SealError::Sealed)));
        assert!(matches!(other.open("token key", "a", &sealed), Err(SealError::OtherKey)));
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert!(key.open("token key", "a", &damaged).is_err());
            assert!(key.open("token key", "a", &sealed[..at]).is_err());
        }
    }
}
