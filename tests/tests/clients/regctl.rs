//! regctl: from layout to registry and back.

use std::path::Path;

use crate::{
    copier::Copier,
    inputs::Input,
    sandbox::{Said, Sandbox},
};

pub(crate) struct Regctl(Sandbox);

impl Copier for Regctl {
    const NAME: &'static str = "regctl";

    async fn start(sandbox: Sandbox) -> Self {
        sandbox.ok(format!("regctl registry set --tls disabled {}", sandbox.registry)).await;
        Self(sandbox)
    }

    fn sandbox(&self) -> &Sandbox {
        &self.0
    }

    async fn log_in(&mut self, user: &str, password: &str) -> Said {
        self.0.run(format!("regctl registry login -u {user} -p {password} {}", self.0.registry)).await
    }

    async fn push(&self, input: &Input, to: &str) -> Said {
        let from = format!("ocidir://{}:{}", input.folder.display(), input.name);
        self.0.run(format!("regctl image copy {from} {to}")).await
    }

    async fn pull(&self, from: &str, folder: &Path) -> Said {
        self.0.run(format!("regctl image copy {from} ocidir://{}:pulled", folder.display())).await
    }

    async fn tag(&self, from: &str, repository: &str, tags: &[String]) -> Option<()> {
        for tag in tags {
            self.0.ok(format!("regctl image copy {from} {repository}:{tag}")).await;
        }
        Some(())
    }

    async fn tags(&self, repository: &str) -> Option<Vec<String>> {
        let said = self.0.ok(format!("regctl tag ls {repository}")).await;
        Some(said.lines().map(str::to_owned).collect())
    }

    async fn repositories(&self) -> Option<String> {
        Some(self.0.ok(format!("regctl repo ls {}", self.0.registry)).await)
    }

    async fn delete(&self, repository: &str, _tag: &str, digest: &str) -> Option<Said> {
        Some(self.0.run(format!("regctl manifest delete {repository}@{digest}")).await)
    }
}

copier!(Regctl);
