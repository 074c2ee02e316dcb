//! skopeo: from layout to registry and back.

use std::path::{Path, PathBuf};

use berth_testkit::Blob;

use crate::{
    copier::Copier,
    inputs::{self, Input},
    layout::ImageLayout,
    sandbox::{Said, Sandbox},
};

pub(crate) struct Skopeo(Sandbox);

impl Skopeo {
    /// skopeo's own form, since it reads nothing of Docker's from a layout.
    fn as_folder(&self, input: &Input) -> PathBuf {
        let (folder, layout) = (self.0.path(&format!("dir-{}", input.name)), input.layout());
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("version"), "Directory Transport Version: 1.1\n").unwrap();
        std::fs::write(folder.join("manifest.json"), &input.root.bytes).unwrap();
        for digest in input.content.keys().filter(|digest| **digest != input.root.digest) {
            let from = layout.file(digest);
            let name = from.file_name().unwrap().to_str().unwrap();
            std::fs::copy(&from, folder.join(name)).unwrap();
            // A manifest in a list is found by this name.
            std::fs::copy(&from, folder.join(format!("{name}.manifest.json"))).unwrap();
        }
        folder
    }
}

/// Makes a layout of skopeo's own form: there a file is named by its digest too, but for the manifest.
fn sort(unsorted: &Path, folder: &Path) {
    let layout = ImageLayout::new(folder.to_owned());
    for file in std::fs::read_dir(unsorted).unwrap().map(|file| file.unwrap().path()) {
        let name = file.file_name().unwrap().to_str().unwrap();
        match name.trim_end_matches(".manifest.json") {
            "version" => {}
            "manifest.json" => layout.add(&Blob::new("", std::fs::read(&file).unwrap())),
            hash => std::fs::rename(&file, layout.file(&format!("sha256:{hash}").parse().unwrap())).unwrap(),
        }
    }
}

impl Copier for Skopeo {
    const NAME: &'static str = "skopeo";
    const REFUSES: &'static [(&'static str, &'static str)] =
        &[(inputs::NESTED, "Unexpectedly received a manifest list instead of a manifest for a single image")];

    async fn start(sandbox: Sandbox) -> Self {
        Self(sandbox)
    }

    fn sandbox(&self) -> &Sandbox {
        &self.0
    }

    async fn log_in(&mut self, user: &str, password: &str) -> Said {
        let registry = &self.0.registry;
        self.0.run(format!("skopeo login --tls-verify=false -u {user} -p {password} {registry}")).await
    }

    async fn push(&self, input: &Input, to: &str) -> Said {
        let docker = input.root.media_type.contains("docker");
        let from = if docker {
            format!("dir:{}", self.as_folder(input).display())
        } else {
            format!("oci:{}:{}", input.folder.display(), input.name)
        };
        let copy = "skopeo copy --all --preserve-digests --dest-tls-verify=false";
        self.0.run(format!("{copy} {from} docker://{to}")).await
    }

    async fn pull(&self, from: &str, folder: &Path) -> Said {
        let unsorted = self.0.path("tmp/unsorted");
        let copy = "skopeo copy --all --preserve-digests --src-tls-verify=false";
        let said = self.0.run(format!("{copy} docker://{from} dir:{}", unsorted.display())).await;
        if unsorted.exists() {
            sort(&unsorted, folder);
            std::fs::remove_dir_all(unsorted).unwrap();
        }
        said
    }

    async fn tag(&self, from: &str, repository: &str, tags: &[String]) -> Option<()> {
        for tag in tags {
            let copy = "skopeo copy --src-tls-verify=false --dest-tls-verify=false";
            self.0.ok(format!("{copy} docker://{from} docker://{repository}:{tag}")).await;
        }
        Some(())
    }

    async fn tags(&self, repository: &str) -> Option<Vec<String>> {
        let said = self.0.ok(format!("skopeo list-tags --tls-verify=false docker://{repository}")).await;
        let document: serde_json::Value = serde_json::from_str(&said).unwrap();
        serde_json::from_value(document["Tags"].clone()).ok()
    }

    async fn delete(&self, repository: &str, tag: &str, _digest: &str) -> Option<Said> {
        Some(self.0.run(format!("skopeo delete --tls-verify=false docker://{repository}:{tag}")).await)
    }
}

copier!(Skopeo);
