//! crane: from layout to registry and back.

use std::path::Path;

use crate::{
    copier::Copier,
    inputs::Input,
    sandbox::{Said, Sandbox},
};

pub(crate) struct Crane(Sandbox);

impl Copier for Crane {
    const NAME: &'static str = "crane";

    async fn start(sandbox: Sandbox) -> Self {
        Self(sandbox)
    }

    fn sandbox(&self) -> &Sandbox {
        &self.0
    }

    async fn log_in(&mut self, user: &str, password: &str) -> Said {
        self.0.run(format!("crane auth login --insecure -u {user} -p {password} {}", self.0.registry)).await
    }

    async fn push(&self, input: &Input, to: &str) -> Said {
        self.0.run(format!("crane push --insecure {} {to}", input.folder.display())).await
    }

    async fn pull(&self, from: &str, folder: &Path) -> Said {
        self.0.run(format!("crane pull --insecure --format=oci {from} {}", folder.display())).await
    }

    async fn tag(&self, from: &str, _repository: &str, tags: &[String]) -> Option<()> {
        for tag in tags {
            self.0.ok(format!("crane tag --insecure {from} {tag}")).await;
        }
        Some(())
    }

    async fn tags(&self, repository: &str) -> Option<Vec<String>> {
        let said = self.0.ok(format!("crane ls --insecure {repository}")).await;
        Some(said.lines().map(str::to_owned).collect())
    }

    async fn repositories(&self) -> Option<String> {
        Some(self.0.ok(format!("crane catalog --insecure {}", self.0.registry)).await)
    }

    async fn delete(&self, repository: &str, _tag: &str, digest: &str) -> Option<Said> {
        Some(self.0.run(format!("crane delete --insecure {repository}@{digest}")).await)
    }
}

copier!(Crane);
