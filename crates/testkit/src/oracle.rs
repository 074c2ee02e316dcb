//! What must hold after any test: every blob and manifest that a row names has its bytes and its digest, and a deployment at
//! rest keeps no object, no memory and no descriptor that it does not need.

use anyhow::{Context, ensure};

use crate::{Berth, Deployment, Storage, eventually, process::binary};

/// What one pass of `berth verify` saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified {
    /// Rows of blobs.
    pub blobs: u64,
    /// Rows of manifests.
    pub manifests: u64,
    /// Objects in the store, of open uploads as well.
    pub objects: u64,
    /// Bytes that were read back and hashed.
    pub bytes: u64,
    /// What is wrong, a line each.
    pub findings: Vec<String>,
    /// What the command ended with.
    pub exit_code: Option<i32>,
    /// What it said beside its findings.
    pub said: String,
}

/// What a deployment needed when it was at rest.
#[derive(Clone, Debug)]
pub struct Baseline {
    descriptors: usize,
    resident: u64,
}

/// What may be open or resident beside the baseline: connections of pools, caches that filled, an allocator's reserve.
const SPARE_DESCRIPTORS: usize = 40;
/// As many connections to object storage stay open for a while as were needed at a time.
const SPARE_CONNECTIONS: usize = 100;
const SPARE_BYTES: u64 = 192 << 20;

impl Deployment {
    /// Runs `berth verify` with the configuration of the process that has metadata.
    ///
    /// # Errors
    /// When it can't be run, or says neither that all is well nor what is damaged.
    pub async fn verify(&self) -> anyhow::Result<Verified> {
        let config = self.folder().join(format!("{}.toml", self.process("metadata").name()));
        let mut command = tokio::process::Command::new(binary());
        let output = command.arg("verify").arg("--config").arg(config).kill_on_drop(true).output().await?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let text = String::from_utf8(output.stdout)?;
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let summary = lines.pop().with_context(|| format!("berth verify: {said}"))?;
        let numbers = summary.split([' ', ',']).filter_map(|word| word.parse().ok()).collect::<Vec<u64>>();
        let [blobs, manifests, objects, bytes, damaged, orphans] = numbers[..] else {
            anyhow::bail!("berth verify says {summary:?}");
        };
        ensure!(damaged + orphans == lines.len() as u64, "{summary}, but {lines:?}");
        let exit_code = output.status.code();
        Ok(Verified { blobs, manifests, objects, bytes, findings: lines, exit_code, said })
    }

    /// Every blob and every manifest that a row names is there with its digest, and no object is forgotten.
    ///
    /// # Errors
    /// Names what is not.
    pub async fn is_sound(&self) -> anyhow::Result<Verified> {
        let verified = self.verify().await?;
        ensure!(verified.findings.is_empty(), "{verified:#?}");
        ensure!(verified.exit_code == Some(0), "{verified:#?}");
        Ok(verified)
    }

    /// What it needs now.
    pub fn baseline(&self) -> Baseline {
        let descriptors = self.processes().iter().filter_map(Berth::descriptors).sum();
        Baseline { descriptors, resident: self.resident_bytes() }
    }

    /// Whether collection has any content to look at within the hour. Sessions are forgotten later, and the repositories that
    /// came to nothing with them.
    async fn has_reviews(&self) -> anyhow::Result<bool> {
        let soon = i64::try_from(std::time::UNIX_EPOCH.elapsed()?.as_micros())? + 3_600_000_000;
        let status = self.admin(&["collection", "status"], "").await?;
        let mut busy = false;
        for line in status.lines() {
            let line: serde_json::Value = serde_json::from_str(line)?;
            let of_content = line["queue"] != "session" && line["queue"] != "repository";
            busy |= of_content && line["first_due"].as_i64().is_some_and(|due| due < soon);
        }
        Ok(busy)
    }

    /// With everybody gone: sound, one object for each blob, and back at what it needed before. Only for a deployment that
    /// collects at once, and when no upload was left open.
    ///
    /// # Errors
    /// Says what does not come to rest.
    pub async fn comes_to_rest(&self, baseline: &Baseline) -> anyhow::Result<Verified> {
        let at_rest = eventually("there is one object for each blob", || async {
            if self.has_reviews().await.ok()? {
                return None;
            }
            let verified = self.is_sound().await.ok()?;
            (verified.objects == verified.blobs).then_some(verified)
        });
        let verified = match at_rest.await {
            Ok(verified) => verified,
            Err(error) => {
                let last = self.is_sound().await?;
                let status = self.admin(&["collection", "status"], "").await?;
                return Err(error.context(format!("{last:?}\n{status}")));
            }
        };
        let spare = match self.setting().storage {
            Storage::Folder => SPARE_DESCRIPTORS,
            Storage::Bucket | Storage::HollowBucket => SPARE_DESCRIPTORS + SPARE_CONNECTIONS,
        };
        let settled = eventually("memory and descriptors are back", || async {
            let now = self.baseline();
            let back = now.descriptors <= baseline.descriptors + spare
                && now.resident <= baseline.resident + SPARE_BYTES;
            back.then_some(())
        });
        settled.await.with_context(|| format!("{baseline:?} before, {:?} now", self.baseline()))?;
        Ok(verified)
    }
}
