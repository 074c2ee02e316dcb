//! What must hold of a folder that a power cut left: the built binary starts on it, everything that was answered is
//! there, nothing is there in part, nothing is damaged, and what was under way can be asked for again.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Output,
};

use anyhow::{Context as _, ensure};
use berth_testkit::{ADMIN, Berth, Client, binary, eventually};
use bytes::Bytes;
use reqwest::Method;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    disk::Tree,
    sample::{History, Place},
};

/// What was found where.
pub(crate) type Seen = BTreeMap<Place, Option<Bytes>>;

/// A folder to look at.
#[derive(Debug)]
pub(crate) struct Case {
    /// The length of the log up to the cut.
    pub(crate) cut: u64,
    pub(crate) tree: Tree,
    /// Whether to wait for the audit trail as well.
    pub(crate) audit: bool,
    /// What was read before the cut, and so must be read after it.
    pub(crate) seen: Seen,
    /// The password that was read before the cut.
    pub(crate) password: Option<String>,
}

/// What was recorded. `ready` and `asked` are lengths of the log.
#[derive(Debug)]
pub(crate) struct Recording {
    pub(crate) history: History,
    /// The password that the first start made, and when that was over.
    pub(crate) made: String,
    pub(crate) made_ready: u64,
    /// The password that the second start was given, from when to when it started.
    pub(crate) given: String,
    pub(crate) given_asked: u64,
    pub(crate) given_ready: u64,
}

/// `berth serve` over a folder, with a password that it generates.
pub(crate) fn serving(data: &Path) -> Berth {
    let data = data.to_str().unwrap();
    let arguments = ["serve", "--data", data, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let arguments = arguments.into_iter().chain(["--log-format", "json"]).map(str::to_owned);
    Berth::new("berth", arguments.collect(), Vec::new())
}

/// The password that the last start left.
pub(crate) fn password_in(data: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(data.join("admin-password")).context("the file with the password")?;
    Ok(text.trim_end().to_owned())
}

async fn berth(command: &str, data: &Path, arguments: &[&str]) -> anyhow::Result<Output> {
    let mut process = tokio::process::Command::new(binary());
    process.arg(command).arg("--data").arg(data).args(arguments).kill_on_drop(true);
    Ok(process.output().await?)
}

impl Case {
    /// Puts the folder below `place` and checks it.
    pub(crate) async fn check(&self, recording: &Recording, place: PathBuf) -> anyhow::Result<()> {
        std::fs::create_dir(&place)?;
        self.tree.write(&place);
        let data = place.join("data");
        let process = serving(&data);
        process.start().await?;
        let password = self.password(&data, &process.url(), recording).await?;
        let client = Client::new(process.url()).with_credentials(ADMIN, &password);
        self.look(&client, recording).await?;
        let verified = berth("verify", &data, &[]).await?;
        ensure!(verified.status.success(), "berth verify: {}", String::from_utf8_lossy(&verified.stdout));
        if self.audit {
            self.audit(&data, recording).await?;
        }
        self.go_on(&client, recording).await?;
        process.kill();
        for name in ["metadata.db", "instance-manager.db"] {
            consistent(&data.join(name)).await.with_context(|| name.to_owned())?;
        }
        std::fs::remove_dir_all(&place)?;
        Ok(())
    }

    /// The administrator's password, which the file holds unless it was given.
    pub(crate) async fn password(
        &self,
        data: &Path,
        url: &str,
        recording: &Recording,
    ) -> anyhow::Result<String> {
        let given = Client::new(url).with_credentials(ADMIN, &recording.given);
        if self.cut >= recording.given_ready {
            ensure!(!data.join("admin-password").exists(), "the file with the old password is back");
            return Ok(recording.given.clone());
        }
        if self.cut >= recording.given_asked && given.token_reply(&[]).await?.status == 200 {
            return Ok(recording.given.clone());
        }
        let password = password_in(data)?;
        let same = self.password.as_ref().is_none_or(|before| *before == password);
        ensure!(same, "the password is another one than before the cut");
        ensure!(self.cut < recording.made_ready || password == recording.made, "another password was made");
        Ok(password)
    }

    /// Each place that was ever asked for has what it may have, whole.
    async fn look(&self, client: &Client, recording: &Recording) -> anyhow::Result<()> {
        let history = &recording.history;
        let found = everything(client, history).await?;
        for (place, mut allowed) in history.expected(self.cut) {
            allowed.retain(|one| self.seen.get(&place).is_none_or(|seen| seen == one));
            let size = |one: &Option<Bytes>| one.as_ref().map(Bytes::len);
            let (sizes, size) = (allowed.iter().map(size).collect::<Vec<_>>(), size(&found[&place]));
            ensure!(allowed.contains(&found[&place]), "{place:?} has {size:?} bytes, not one of {sizes:?}");
        }
        for (session, least, most) in history.sessions(self.cut) {
            let reply = client.repository(session.repository).get(&session.location).await?.expect(204)?;
            let bytes = reply.session_bytes().context("a session without Range")?;
            ensure!((least..=most).contains(&bytes), "a session has {bytes} bytes, not {least} to {most}");
        }
        Ok(())
    }

    /// What was under way, and what was answered last, is asked for again; an open session is ended.
    async fn go_on(&self, client: &Client, recording: &Recording) -> anyhow::Result<()> {
        for step in recording.history.around(self.cut) {
            let outcome = step.again(client).await.with_context(|| format!("again {:.60?}", step.action))?;
            for ((repository, target), bytes) in outcome {
                let reply = client.repository(repository).get(&target).await?;
                let found = (reply.status == 200).then_some(&reply.body);
                ensure!(found == bytes.as_ref(), "again, {repository}{target} answers {}", reply.status);
            }
        }
        for (session, _, _) in recording.history.sessions(self.cut) {
            let repository = client.repository(session.repository);
            let reply = repository.get(&session.location).await?.expect(204)?;
            let bytes = usize::try_from(reply.session_bytes().context("a session without Range")?)?;
            let (digest, rest) = (session.blob.digest.to_string(), session.blob.bytes.slice(bytes..));
            repository
                .finish(&reply.location()?, &digest, rest)
                .await?
                .expect(201)
                .context("ending a session")?;
            repository.pull_blob(&session.blob).await?;
        }
        Ok(())
    }

    /// Every change that was answered gets into the audit trail, and none twice.
    async fn audit(&self, data: &Path, recording: &Recording) -> anyhow::Result<()> {
        let wanted = recording.history.events(self.cut);
        let seen = eventually("every change is in the audit trail", || async {
            let seen = trail(data).await.ok()?;
            wanted
                .iter()
                .all(|(change, (least, _))| seen.get(change).copied().unwrap_or(0) >= *least)
                .then_some(seen)
        });
        for (change, times) in seen.await? {
            let (least, most) = wanted.get(&change).copied().unwrap_or((0, 0));
            ensure!((least..=most).contains(&times), "{change} is {times} times in the audit trail");
        }
        Ok(())
    }
}

/// What SQLite says of a database.
async fn consistent(file: &Path) -> anyhow::Result<()> {
    let mut database = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(file)).await?;
    let said: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check").fetch_all(&mut database).await?;
    ensure!(said == ["ok"], "{}", said.join("; "));
    let strays = sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut database).await?;
    ensure!(strays.is_empty(), "{} rows name rows that are not there", strays.len());
    Ok(database.close().await?)
}

/// How often each change of a manifest or tag is in the audit trail.
async fn trail(data: &Path) -> anyhow::Result<BTreeMap<String, usize>> {
    let printed = berth("admin", data, &["audit"]).await?;
    ensure!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let mut seen = BTreeMap::new();
    for line in std::str::from_utf8(&printed.stdout)?.lines() {
        let entry: serde_json::Value = serde_json::from_str(line)?;
        let text = |key: &str| entry[key].as_str().unwrap_or_default();
        let about = if text("tag").is_empty() { text("digest") } else { text("tag") };
        if text("type").starts_with("artifact.") && text("type") != "artifact.pulled" {
            *seen.entry(format!("{} {} {about}", text("type"), text("repository"))).or_default() += 1;
        }
    }
    Ok(seen)
}

/// What is at every place of a recording.
pub(crate) async fn everything(client: &Client, history: &History) -> anyhow::Result<Seen> {
    let names = history.repositories();
    let scopes: Vec<_> = names.iter().map(|name| format!("repository:{name}:pull")).collect();
    let scopes: Vec<_> = scopes.iter().map(String::as_str).collect();
    let token = client.fresh_token(&scopes).await.context("signing in")?;
    let mut seen = Seen::new();
    for place in history.expected(u64::MAX).into_keys() {
        let call = client.call(Method::GET, format!("/v2/{}{}", place.0, place.1)).bearer(&token);
        let reply = call.header("accept", "application/vnd.oci.image.manifest.v1+json, */*").send().await?;
        let found = match reply.status {
            404 => None,
            _ => Some(reply.expect(200).with_context(|| format!("{place:?}"))?.body),
        };
        seen.insert(place, found);
    }
    Ok(seen)
}
