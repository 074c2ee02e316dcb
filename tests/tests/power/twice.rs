//! The program is killed before a sync, and starts again; then the power fails. Between the two it reads what was written
//! and never synced: what it has answered on that ground must not be lost.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use berth_testkit::{ADMIN, Client};

use crate::{
    check::{Case, Recording, Seen, everything, serving},
    disk::{self, Disk, Fate},
    recorded,
};

/// Starts on all of a disk, reads everything, cuts the power, and checks what is left.
pub(crate) async fn killed_then_cut(
    disk: Disk,
    cut: u64,
    recording: &Recording,
    place: PathBuf,
) -> anyhow::Result<()> {
    std::fs::create_dir(&place)?;
    let (root, log) = (place.join("disk"), place.join("log"));
    std::fs::create_dir(&root)?;
    let tree = disk.after_cut(Fate::Kept);
    tree.write(&root);
    let mut disk = disk.moved(&root);
    let mut case = Case { cut, tree, audit: false, seen: Seen::new(), password: None };
    let (seen, password, end) = read_all(&case, recording, &root, &log).await.context("after the kill")?;
    (case.seen, case.password) = (seen, Some(password));
    for record in disk::read(&log).iter().take_while(|record| record.end <= end) {
        disk.apply(record);
    }
    case.tree = disk.after_cut(Fate::Dropped);
    case.check(recording, place.join("after")).await?;
    Ok(std::fs::remove_dir_all(&place)?)
}

/// What a start on the folder answers, its password, and how long the log was after the last answer.
async fn read_all(
    case: &Case,
    recording: &Recording,
    root: &Path,
    log: &Path,
) -> anyhow::Result<(Seen, String, u64)> {
    let data = root.join("data");
    let process = recorded(serving(&data), root, log);
    process.start().await?;
    let password = case.password(&data, &process.url(), recording).await?;
    let client = Client::new(process.url()).with_credentials(ADMIN, &password);
    let seen = everything(&client, &recording.history).await?;
    let end = std::fs::metadata(log)?.len();
    process.kill();
    Ok((seen, password, end))
}
