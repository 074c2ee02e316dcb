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

    /// The audit trail, oldest first.
    ///
    /// # Errors
    /// When it can't be read.
    pub async fn audit(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        let mut entries: Vec<serde_json::Value> = Vec::new();
        loop {
            let last =
                entries.last().and_then(|entry| entry["event_id"].as_str()).unwrap_or_default().to_owned();
            let page = self.admin(&["audit", "--after", &last, "--limit", "1000"], "").await?;
            if page.is_empty() {
                return Ok(entries);
            }
            for line in page.lines() {
                entries.push(serde_json::from_str(line)?);
            }
        }
    }
}
