//! Image layouts in folders: written from inputs, and what a client pulled, read back and hashed.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use berth_oci::{Algorithm, Digest, Hasher};
use berth_testkit::{Blob, descriptor};
use serde_json::{Value, json};

/// A folder in the form of the image layout specification.
#[derive(Debug)]
pub(crate) struct ImageLayout {
    folder: PathBuf,
}

impl ImageLayout {
    /// A new one without content.
    pub(crate) fn new(folder: PathBuf) -> Self {
        std::fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        std::fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { folder }
    }

    /// One that a client made.
    pub(crate) fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub(crate) fn file(&self, digest: &Digest) -> PathBuf {
        let text = digest.to_string();
        self.folder.join("blobs/sha256").join(text.trim_start_matches("sha256:"))
    }

    pub(crate) fn add(&self, blob: &Blob) {
        std::fs::write(self.file(&blob.digest), &blob.bytes).unwrap();
    }

    /// Adds what `write` writes and gives its digest and size.
    pub(crate) fn add_written(&self, write: impl FnOnce(&mut Hashing) -> io::Result<()>) -> (Digest, u64) {
        let unnamed = self.folder.join("unnamed");
        let hasher = Hasher::new(Algorithm::Sha256);
        let mut file = Hashing { to: File::create(&unnamed).unwrap(), hasher, size: 0 };
        write(&mut file).unwrap();
        let (digest, size) = (file.hasher.finish(), file.size);
        std::fs::rename(unnamed, self.file(&digest)).unwrap();
        (digest, size)
    }

    /// Names its one content.
    pub(crate) fn finish(&self, name: &str, root: &Blob) {
        let mut entry = descriptor(root);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        std::fs::write(self.folder.join("index.json"), index.to_string()).unwrap();
    }

    /// Everything below a manifest or index, itself included: each is there, and hashes to its name.
    pub(crate) fn content(&self, root: &Digest) -> Result<BTreeMap<Digest, u64>, String> {
        let mut found = BTreeMap::new();
        let mut open = vec![*root];
        while let Some(digest) = open.pop() {
            if found.contains_key(&digest) {
                continue;
            }
            let (hash, size, document) =
                read(&self.file(&digest)).map_err(|error| format!("{digest}: {error}"))?;
            if hash != digest {
                return Err(format!("{digest} has the bytes of {hash}"));
            }
            found.insert(digest, size);
            let named = ["manifests", "layers"].iter().filter_map(|key| document[key].as_array()).flatten();
            let named = named.chain(document.get("config").filter(|config| config["digest"].is_string()));
            open.extend(named.map(|entry| entry["digest"].as_str().unwrap().parse::<Digest>().unwrap()));
        }
        Ok(found)
    }
}

/// A file that is hashed while it is written.
pub(crate) struct Hashing {
    to: File,
    hasher: Hasher,
    size: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write_all(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// A file's digest and size, and the JSON document that it is, or null.
fn read(path: &Path) -> io::Result<(Digest, u64, Value)> {
    let (mut file, mut hasher, mut size) = (File::open(path)?, Hasher::new(Algorithm::Sha256), 0);
    let mut buffer = vec![0; 1 << 20];
    let mut document = Value::Null;
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok((hasher.finish(), size, document));
        }
        hasher.update(&buffer[..count]);
        if size == 0 {
            document = serde_json::from_slice(&buffer[..count]).unwrap_or_default();
        }
        size += count as u64;
    }
}

/// Packs a folder into an archive beside it, as clients take and give layouts that are one file.
pub(crate) fn pack(folder: &Path, archive: &Path) {
    let packed =
        std::process::Command::new("tar").arg("-cf").arg(archive).arg("-C").arg(folder).arg(".").status();
    assert!(packed.unwrap().success());
}
