//! `berth verify`: what is wrong is named, with the registry running and stopped, and the rest is served meanwhile.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::Path,
    time::Duration,
};

use berth_testkit::{Blob, Content, Deployment, Engine, Image, Layout, Setting, Verified, binary};

const REPOSITORY: &str = "team/verified";
/// What `berth verify` ends with when it finds something.
const DAMAGED: i32 = 3;

/// The key of the object in a file.
fn key_of(file: &Path) -> String {
    let parts: Vec<_> = file.iter().map(|part| part.to_str().unwrap()).rev().collect();
    format!("i/{}/{}", parts[2], parts[0])
}

/// Flips a byte, truncates, removes and plants; the lines that have to be printed.
fn damage(deployment: &Deployment, image: &Image) -> BTreeSet<String> {
    let [flipped, short, missing, ..] = image.layers.as_slice() else { panic!("three layers") };
    let mut expected = BTreeSet::new();
    let mut expect = |kind: &str, blob: &Blob| {
        let path = deployment.file_of(blob);
        expected.insert(format!("{kind} {} {}", blob.digest, key_of(&path)));
        path
    };
    let mut file = File::options().read(true).write(true).open(expect("wrong_digest", flipped)).unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(12_345)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(12_345)).unwrap();
    file.write_all(&[byte[0] ^ 1]).unwrap();
    let path = expect("short", short);
    File::options().write(true).open(path).unwrap().set_len(short.size() - 1).unwrap();
    let path = expect("missing", missing);
    std::fs::remove_file(&path).unwrap();
    // An object that no row names is none before it is older than the longest operation.
    let end = path.file_name().unwrap().to_str().unwrap();
    for (name, age) in [("01BX5ZZKBKACTAV9WEVGEMM0", 7200), ("01BX5ZZKBKACTAV9WEVGEMM1", 0)] {
        let name = format!("{name}{}", &end[24..]);
        let planted = path.with_file_name(name);
        let mut file = File::create(&planted).unwrap();
        file.write_all(b"nobody's").unwrap();
        if age > 0 {
            let now = file.metadata().unwrap().modified().unwrap();
            file.set_modified(now - Duration::from_secs(age)).unwrap();
            expected.insert(format!("orphan {}", key_of(&planted)));
        }
    }
    expected
}

fn found(verified: &Verified) -> BTreeSet<String> {
    verified.findings.iter().cloned().collect()
}

async fn metric(deployment: &Deployment, series: &str) -> f64 {
    deployment.process("metadata").metric(series).await.unwrap()
}

async fn what_is_damaged_is_named(setting: Setting) {
    let deployment = Deployment::builder(setting).start().await.unwrap();
    let mut content = Content::named("verify");
    let (damaged, whole) = (content.image(3, 300_000), content.image(3, 300_000));
    let repository = deployment.client().repository(REPOSITORY);
    deployment.is_sound().await.unwrap();
    repository.push_image("damaged", &damaged).await.unwrap().expect(201).unwrap();
    repository.push_image("whole", &whole).await.unwrap().expect(201).unwrap();
    deployment.is_sound().await.unwrap();

    let expected = damage(&deployment, &damaged);
    let (verified, pulled) = tokio::join!(deployment.verify(), repository.pull_image("whole", &whole));
    pulled.unwrap();
    let verified = verified.unwrap();
    assert_eq!(found(&verified), expected);
    assert_eq!((verified.blobs, verified.manifests, verified.objects), (8, 2, 9));
    let orphans = verified.findings.iter().filter(|line| line.starts_with("orphan ")).count();
    assert_eq!((verified.findings.len(), orphans), (4, 1));
    assert_eq!(verified.exit_code, Some(DAMAGED));
    repository.pull_image("whole", &whole).await.unwrap();

    for kind in ["wrong_digest", "short", "missing"] {
        assert_eq!(metric(&deployment, &format!("berth_scrub_damage{{kind=\"{kind}\"}}")).await as u64, 1);
    }
    assert_eq!(metric(&deployment, "berth_scrub_orphans").await as u64, 1);
    assert!(metric(&deployment, "berth_scrub_last_end_seconds").await > 1.7e9);
    assert_eq!(metric(&deployment, "berth_scrub_objects_total").await as u64, 16);
    let log = deployment.process("metadata").log();
    for line in &expected {
        let (_, key) = line.rsplit_once(' ').unwrap();
        let named: Vec<_> = log.iter().filter(|line| line.contains(key) && line.contains("ERROR")).collect();
        assert_eq!(named.len(), 1, "{key}: {named:?}");
        assert!(!named[0].contains(REPOSITORY));
    }
    let status = deployment.admin(&["scrub", "status"], "").await.unwrap();
    assert!(status.contains("\"damaged\":3") && status.contains("\"phase\":\"done\""), "{status}");
    let begun = deployment.admin(&["scrub", "now"], "").await.unwrap();
    assert_eq!(begun.trim(), "pass 4 runs");

    // Stopped: the same over the files, or, where the store has a process of its own, through that.
    deployment.process("metadata").kill();
    let stopped = deployment.verify().await.unwrap();
    assert_eq!((found(&stopped), stopped.exit_code), (expected, Some(DAMAGED)));
    assert_eq!(stopped.said, "berth: 4 findings; nothing was changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_is_named_in_one_process() {
    what_is_damaged_is_named(Setting::EMBEDDED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_is_named_with_roles_apart_on_postgres() {
    what_is_damaged_is_named(Setting::new(Layout::RolesApart, Engine::Postgres)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_without_a_registry_is_refused_and_not_made() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("nothing");
    let output = tokio::process::Command::new(binary()).arg("verify").arg("--data").arg(&data).output();
    let output = output.await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no registry in"), "{output:?}");
    assert!(!data.exists());
}
