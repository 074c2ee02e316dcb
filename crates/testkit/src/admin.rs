//! `berth admin` against a deployment.

use std::process::Stdio;

use anyhow::Context;
use tokio::io::AsyncWriteExt;

use crate::{Client, Deployment, process::binary};

impl Deployment {
    /// Runs `berth admin` with the arguments and returns what it printed.
    ///
    /// # Errors
    /// When it fails, with what it said.
    pub async fn admin(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let config = self.folder().join(format!("{}.toml", self.processes()[0].name()));
        let mut child = tokio::process::Command::new(binary())
            .arg("admin")
            .arg("--config")
            .arg(config)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("can't run berth admin")?;
        let mut stdin = child.stdin.take().context("standard input")?;
        stdin.write_all(input.as_bytes()).await?;
        drop(stdin);
        let output = child.wait_with_output().await?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "berth admin {arguments:?}: {said}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Makes a user without any right and returns a client of theirs.
    ///
    /// # Errors
    /// When the user can't be made.
    pub async fn new_user(&self, name: &str) -> anyhow::Result<Client> {
        let password = format!("password of {name}");
        self.admin(&["create-user", name], &password).await?;
        Ok(self.anonymous().with_credentials(name, &password))
    }

    /// The audit of the default instance, in the order of recording.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn audit(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        self.audit_with(&[]).await
    }

    /// What of it fits, in the order of recording.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn audit_with(&self, arguments: &[&str]) -> anyhow::Result<Vec<serde_json::Value>> {
        let printed = self.admin(&[&["audit"], arguments].concat(), "").await?;
        printed.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    }
}
