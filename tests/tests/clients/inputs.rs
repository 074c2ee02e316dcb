//! What clients push and pull: image layouts of every form that there is, each in a folder of its own, written once for
//! all tests of the process.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use berth_oci::{Algorithm, Digest, MediaType};
use berth_testkit::{Blob, Content, descriptor};
use serde_json::{Value, json};

use crate::{
    layers::{gzip, tar, write_large_tar, zstd},
    layout::ImageLayout,
};

const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// One image.
pub(crate) const PLAIN: &str = "plain";
/// An index of two platforms; a layer of the first is large enough for more than one part of an upload.
pub(crate) const MULTI_ARCH: &str = "multi-arch";
/// An index that has an index in it.
pub(crate) const NESTED: &str = "nested";
/// 120 layers.
pub(crate) const DEEP: &str = "deep";
/// A layer of 100 MiB, not compressed.
pub(crate) const LARGE: &str = "large";
/// A layer that is the empty archive, as every `ENV` in an old Dockerfile made one.
pub(crate) const EMPTY: &str = "empty";
/// Layers in zstd.
pub(crate) const ZSTD: &str = "zstd";
/// Docker's own manifest.
pub(crate) const SCHEMA2: &str = "schema2";
/// Docker's own list of manifests.
pub(crate) const SCHEMA2_LIST: &str = "schema2-list";
/// An artifact without layers.
pub(crate) const ARTIFACT: &str = "artifact";
/// An artifact of which a layer is no byte at all.
pub(crate) const NOTHING: &str = "nothing";

/// All of them.
pub(crate) const ALL: &[&str] =
    &[PLAIN, MULTI_ARCH, NESTED, DEEP, LARGE, EMPTY, ZSTD, SCHEMA2, SCHEMA2_LIST, ARTIFACT, NOTHING];

/// An image layout with one content, which is named as it is.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) name: &'static str,
    pub(crate) folder: PathBuf,
    /// Its manifest or index.
    pub(crate) root: Blob,
    /// The digest of the configuration of the image for this platform: what docker and podman call its id.
    pub(crate) image_id: Option<Digest>,
    /// Everything below the root, and their sizes.
    pub(crate) content: BTreeMap<Digest, u64>,
}

impl Input {
    pub(crate) fn layout(&self) -> ImageLayout {
        ImageLayout::at(self.folder.clone())
    }
}

/// An input, written when the first test asks for one.
pub(crate) fn input(name: &str) -> &'static Input {
    static INPUTS: LazyLock<Vec<Input>> = LazyLock::new(|| {
        let folder = new_folder();
        ALL.iter().map(|name| Writer::write(&folder, name, 100 << 20)).collect()
    });
    INPUTS.iter().find(|input| input.name == name).unwrap()
}

/// `LARGE` with a layer of this size, in a folder of its own.
pub(crate) fn large(size: u64) -> (Input, PathBuf) {
    let folder = new_folder();
    (Writer::write(&folder, LARGE, size), folder)
}

/// In lower case, since podman makes an image's name of it.
fn new_folder() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("berth-inputs-{}-{number}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    berth_testkit::remove_at_end(&folder);
    folder
}

/// Writes one input.
struct Writer {
    layout: ImageLayout,
    random: Content,
    /// The configuration of the first image that was written.
    image_id: Option<Digest>,
}

/// A layer in a layout: its descriptor, and the digest of the archive in it.
struct Layer {
    descriptor: Value,
    archive: Digest,
}

impl Writer {
    fn write(folder: &Path, name: &'static str, large: u64) -> Input {
        let folder = folder.join(name);
        let layout = ImageLayout::new(folder.clone());
        let mut writer = Self { layout, random: Content::named(name), image_id: None };
        let root = writer.root(name, large);
        let document = serde_json::from_slice::<Value>(&root.bytes).unwrap();
        assert_eq!(document["mediaType"], root.media_type.as_str());
        writer.layout.finish(name, &root);
        let content = writer.layout.content(&root.digest).unwrap();
        Input { name, folder, root, image_id: writer.image_id, content }
    }

    fn root(&mut self, name: &str, large: u64) -> Blob {
        match name {
            PLAIN => {
                let layers = vec![self.gzip(50_000), self.gzip(5_000)];
                self.image("amd64", layers)
            }
            MULTI_ARCH => {
                let layers = vec![self.gzip(24 << 20)];
                let (first, second) = (self.image("amd64", layers), self.small("arm64"));
                self.index(MediaType::OCI_INDEX, &[(&first, Some("amd64")), (&second, Some("arm64"))])
            }
            NESTED => {
                let (first, second) = (self.small("amd64"), self.small("arm64"));
                let inner =
                    self.index(MediaType::OCI_INDEX, &[(&first, Some("amd64")), (&second, Some("arm64"))]);
                let third = self.small("s390x");
                self.index(MediaType::OCI_INDEX, &[(&inner, None), (&third, Some("s390x"))])
            }
            DEEP => {
                let layers = (0..120).map(|_| self.gzip(700)).collect();
                self.image("amd64", layers)
            }
            LARGE => {
                let random = &mut self.random;
                let written = |file: &mut _| write_large_tar(file, large, |size| random.bytes(size));
                let (archive, size) = self.layout.add_written(written);
                let descriptor = json!({ "mediaType": TAR, "digest": archive, "size": size });
                self.image("amd64", vec![Layer { descriptor, archive }])
            }
            EMPTY => {
                let layers = vec![self.layer(TAR_GZIP, &[0; 1024], gzip), self.gzip(2_000)];
                self.image("amd64", layers)
            }
            ZSTD => {
                let layers = vec![self.zstd(300_000), self.zstd(100)];
                self.image("amd64", layers)
            }
            SCHEMA2 => self.schema2("amd64"),
            SCHEMA2_LIST => {
                let (first, second) = (self.schema2("amd64"), self.schema2("arm64"));
                self.index(MediaType::DOCKER_LIST, &[(&first, Some("amd64")), (&second, Some("arm64"))])
            }
            ARTIFACT => self.artifact(&[]),
            NOTHING => {
                let text = Blob::new("text/plain", self.random.bytes(100));
                self.artifact(&[Blob::new("application/octet-stream", ""), text])
            }
            _ => panic!("there is no input {name}"),
        }
    }

    fn add(&self, blob: Blob) -> Blob {
        self.layout.add(&blob);
        blob
    }

    fn layer(&self, media_type: &str, archive: &[u8], compressed: impl Fn(&[u8]) -> Vec<u8>) -> Layer {
        let blob = self.add(Blob::new(media_type, compressed(archive)));
        Layer { descriptor: descriptor(&blob), archive: Digest::of(Algorithm::Sha256, archive) }
    }

    /// An archive with one file of random bytes, named by the first of them.
    fn archive(&mut self, size: usize) -> Vec<u8> {
        let content = self.random.bytes(size);
        let name = format!("file-{:02x}{:02x}{:02x}", content[0], content[1], content[2]);
        tar(&[(&name, &content)])
    }

    fn gzip(&mut self, size: usize) -> Layer {
        let archive = self.archive(size);
        self.layer(TAR_GZIP, &archive, gzip)
    }

    fn zstd(&mut self, size: usize) -> Layer {
        let archive = self.archive(size);
        self.layer(TAR_ZSTD, &archive, zstd)
    }

    fn small(&mut self, architecture: &str) -> Blob {
        let layers = vec![self.gzip(3_000)];
        self.image(architecture, layers)
    }

    fn image(&mut self, architecture: &str, layers: Vec<Layer>) -> Blob {
        self.image_as(MediaType::OCI_MANIFEST, CONFIG, architecture, layers)
    }

    fn schema2(&mut self, architecture: &str) -> Blob {
        let archive = self.archive(4_000);
        let layers = vec![self.layer(DOCKER_LAYER, &archive, gzip)];
        self.image_as(MediaType::DOCKER_MANIFEST, DOCKER_CONFIG, architecture, layers)
    }

    fn image_as(
        &mut self,
        media_type: &str,
        config_type: &str,
        architecture: &str,
        layers: Vec<Layer>,
    ) -> Blob {
        let archives: Vec<_> = layers.iter().map(|layer| layer.archive).collect();
        let config = json!({
            "created": "2026-01-01T00:00:00Z", "architecture": architecture, "os": "linux",
            "config": { "Cmd": ["/none"] }, "rootfs": { "type": "layers", "diff_ids": archives },
            "history": archives.iter().map(|_| json!({ "created_by": "berth-tests" })).collect::<Vec<_>>(),
        });
        let config = self.add(Blob::json(config_type, &config));
        self.image_id.get_or_insert(config.digest);
        let layers: Vec<_> = layers.into_iter().map(|layer| layer.descriptor).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media_type, "config": descriptor(&config), "layers": layers,
        });
        self.add(Blob::json(media_type, &manifest))
    }

    fn index(&self, media_type: &str, children: &[(&Blob, Option<&str>)]) -> Blob {
        let entry = |(child, architecture): &(&Blob, Option<&str>)| {
            let mut entry = descriptor(child);
            if let Some(architecture) = architecture {
                entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
            }
            entry
        };
        let manifests: Vec<_> = children.iter().map(entry).collect();
        let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests });
        self.add(Blob::json(media_type, &index))
    }

    fn artifact(&self, layers: &[Blob]) -> Blob {
        for layer in layers {
            self.layout.add(layer);
        }
        let config = self.add(Blob::new("application/vnd.oci.empty.v1+json", "{}"));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MediaType::OCI_MANIFEST,
            "artifactType": "application/vnd.berth.test",
            "config": descriptor(&config), "layers": layers.iter().map(descriptor).collect::<Vec<_>>(),
        });
        self.add(Blob::json(MediaType::OCI_MANIFEST, &manifest))
    }
}
