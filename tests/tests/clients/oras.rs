//! oras: from layout to registry and back, and what it is made for: files, and what is attached to them.

use std::path::Path;

use berth_testkit::{Blob, Deployment, PASSWORD};

use crate::{
    copier::Copier,
    inputs::Input,
    sandbox::{Said, Sandbox},
};

pub(crate) struct Oras(Sandbox);

impl Copier for Oras {
    const NAME: &'static str = "oras";

    async fn start(sandbox: Sandbox) -> Self {
        Self(sandbox)
    }

    fn sandbox(&self) -> &Sandbox {
        &self.0
    }

    async fn log_in(&mut self, user: &str, password: &str) -> Said {
        self.0.run(format!("oras login --plain-http -u {user} -p {password} {}", self.0.registry)).await
    }

    async fn push(&self, input: &Input, to: &str) -> Said {
        let from = format!("{}:{}", input.folder.display(), input.name);
        self.0.run(format!("oras cp --from-oci-layout {from} --to-plain-http {to}")).await
    }

    async fn pull(&self, from: &str, folder: &Path) -> Said {
        let to = format!("{}:pulled", folder.display());
        self.0.run(format!("oras cp --from-plain-http {from} --to-oci-layout {to}")).await
    }

    async fn tag(&self, from: &str, _repository: &str, tags: &[String]) -> Option<()> {
        self.0.ok(format!("oras tag --plain-http {from} {}", tags.join(" "))).await;
        Some(())
    }

    async fn tags(&self, repository: &str) -> Option<Vec<String>> {
        let said = self.0.ok(format!("oras repo tags --plain-http {repository}")).await;
        Some(said.lines().map(str::to_owned).collect())
    }

    async fn repositories(&self) -> Option<String> {
        Some(self.0.ok(format!("oras repo ls --plain-http {}", self.0.registry)).await)
    }

    async fn delete(&self, repository: &str, tag: &str, _digest: &str) -> Option<Said> {
        Some(self.0.run(format!("oras manifest delete --plain-http --force {repository}:{tag}")).await)
    }
}

copier!(Oras);

async fn logged_in(deployment: &Deployment) -> Sandbox {
    let mut oras = Oras(Sandbox::new(deployment));
    oras.log_in("admin", PASSWORD).await.done();
    oras.0
}

/// What `oras discover` finds below a subject: artifact types and digests.
async fn discovered(oras: &Sandbox, subject: &str) -> Vec<(String, String)> {
    let said = oras.ok(format!("oras discover --plain-http --format json {subject}")).await;
    let document: serde_json::Value = serde_json::from_str(&said).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let entries = document["referrers"].as_array().cloned().unwrap_or_default();
    entries.iter().map(|entry| (text(&entry["artifactType"]), text(&entry["digest"]))).collect()
}

wherever_bytes_are! {
    async fn files_and_what_is_attached_to_them(deployment: &'static Deployment) {
        let oras = logged_in(deployment).await;
        oras.write("in/text.txt", "some text\n");
        oras.write("in/none.bin", "");
        oras.write("in/folder/inner.json", "{}");
        oras.write("in/signature.txt", "signed");
        let (from, to) = (format!("{}/oras/files", oras.registry), format!("{}/oras/copies", oras.registry));
        let push = "oras push --plain-http --artifact-type application/vnd.example";
        oras.ok(format!("{push} {from}:v1 in/text.txt:text/plain in/none.bin in/folder")).await;
        let subject = oras.ok(format!("oras resolve --plain-http {from}:v1")).await;

        // Attached, found, and attached to what is attached.
        let attach = "oras attach --plain-http --artifact-type";
        oras.ok(format!("{attach} example/signature {from}:v1 in/signature.txt:text/plain")).await;
        let signatures = discovered(&oras, &format!("{from}:v1")).await;
        let [(kind, signature)] = signatures.as_slice() else { panic!("{signatures:?}") };
        assert_eq!(kind, "example/signature");
        oras.ok(format!("{attach} example/note {from}@{signature} -a note=later")).await;
        assert_eq!(discovered(&oras, &format!("{from}@{signature}")).await[0].0, "example/note");

        // A copy with everything, and what was pushed comes back from it.
        let copy = "oras cp --recursive --from-plain-http --to-plain-http";
        oras.ok(format!("{copy} {from}:v1 {to}:v1,latest")).await;
        assert_eq!(oras.ok(format!("oras resolve --plain-http {to}:latest")).await, subject);
        assert_eq!(discovered(&oras, &format!("{to}@{subject}")).await, signatures);
        assert_eq!(discovered(&oras, &format!("{to}@{signature}")).await[0].0, "example/note");
        oras.ok(format!("oras pull --plain-http -o out {to}:v1")).await;
        oras.ok(format!("oras pull --plain-http -o out {to}@{signature}")).await;
        oras.ok("diff -r in out/in").await;

        // Deleted there, and only there.
        oras.ok(format!("oras manifest delete --plain-http --force {to}@{subject}")).await;
        assert_eq!(oras.ok(format!("oras repo tags --plain-http {to}")).await, "");
        oras.run(format!("oras manifest fetch --plain-http {to}@{subject}")).await.refused();
        assert_eq!(discovered(&oras, &format!("{from}:v1")).await, signatures);
    }

    async fn single_blobs(deployment: &'static Deployment) {
        let oras = logged_in(deployment).await;
        let repository = format!("{}/oras/blobs", oras.registry);
        oras.write("blob", "a blob that no manifest names");
        let digest = Blob::new("", "a blob that no manifest names").digest;
        oras.ok(format!("oras blob push --plain-http {repository} blob")).await;
        oras.ok(format!("oras blob fetch --plain-http -o back {repository}@{digest}")).await;
        oras.ok("cmp blob back").await;
        oras.ok(format!("oras blob delete --plain-http --force {repository}@{digest}")).await;
        oras.run(format!("oras blob fetch --plain-http -o gone {repository}@{digest}")).await.refused();
    }
}
