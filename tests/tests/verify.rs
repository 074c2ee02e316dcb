//! `berth verify`: what is wrong is named, with the registry running and stopped, and the rest is served meanwhile.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use berth_testkit::{Blob, Client, Content, Deployment, Engine, Image, Layout, Setting, binary};
use reqwest::Method;

const REPOSITORY: &str = "team/verified";
/// What `berth verify` ends with when it finds something.
const DAMAGED: i32 = 3;

/// Runs `berth verify` with the configuration of the process that has metadata.
async fn verify(deployment: &Deployment) -> Output {
    let name = deployment.process("metadata").name();
    let config = deployment.folder().join(format!("{name}.toml"));
    let mut command = tokio::process::Command::new(binary());
    command.arg("verify").arg("--config").arg(config).kill_on_drop(true).output().await.unwrap()
}

/// What it found, a line each, and its summary.
fn findings(output: &Output) -> (BTreeSet<String>, String) {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let summary = lines.pop().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (lines.into_iter().collect(), summary)
}

async fn is_clean(deployment: &Deployment) {
    let output = verify(deployment).await;
    let (found, summary) = findings(&output);
    assert!(found.is_empty() && summary.ends_with(": 0 damaged, 0 orphans"), "{found:?} {summary}");
    assert_eq!(output.status.code(), Some(0));
}

fn objects_below(folder: &Path, objects: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { objects_below(&path, objects) } else { objects.push(path) }
    }
}

/// The file that holds a blob's bytes.
fn file_of(deployment: &Deployment, blob: &Blob) -> PathBuf {
    let mut objects = Vec::new();
    let blobs = deployment.folder().join(deployment.process("blob-store").name()).join("blobs/i");
    objects_below(&blobs, &mut objects);
    objects.into_iter().find(|path| std::fs::read(path).unwrap() == blob.bytes).unwrap()
}

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
        let path = file_of(deployment, blob);
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

async fn metric(deployment: &Deployment, line: &str) -> u64 {
    let admin = deployment.process("metadata").address("admin").unwrap();
    let reply = Client::new(format!("http://{admin}")).call(Method::GET, "/metrics").send().await.unwrap();
    let text = String::from_utf8(reply.body.to_vec()).unwrap();
    let found = text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {line} in\n{text}"))
}

async fn what_is_damaged_is_named(setting: Setting) {
    let deployment = Deployment::builder(setting).start().await.unwrap();
    let mut content = Content::named("verify");
    let (damaged, whole) = (content.image(3, 300_000), content.image(3, 300_000));
    let repository = deployment.client().repository(REPOSITORY);
    is_clean(&deployment).await;
    repository.push_image("damaged", &damaged).await.unwrap().expect(201).unwrap();
    repository.push_image("whole", &whole).await.unwrap().expect(201).unwrap();
    is_clean(&deployment).await;

    let expected = damage(&deployment, &damaged);
    let (output, pulled) = tokio::join!(verify(&deployment), repository.pull_image("whole", &whole));
    pulled.unwrap();
    let (found, summary) = findings(&output);
    assert_eq!(found, expected, "{summary}");
    assert_eq!(
        summary,
        "8 blobs, 2 manifests, 9 objects, ".to_owned() + summary.split_once("objects, ").unwrap().1
    );
    assert!(summary.ends_with(": 3 damaged, 1 orphans"), "{summary}");
    assert_eq!(output.status.code(), Some(DAMAGED));
    repository.pull_image("whole", &whole).await.unwrap();

    for kind in ["wrong_digest", "short", "missing"] {
        assert_eq!(metric(&deployment, &format!("berth_scrub_damage{{kind=\"{kind}\"}}")).await, 1);
    }
    assert_eq!(metric(&deployment, "berth_scrub_orphans").await, 1);
    assert!(metric(&deployment, "berth_scrub_last_end_seconds").await > 1_700_000_000);
    assert_eq!(metric(&deployment, "berth_scrub_objects_total").await, 16);
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
    let output = verify(&deployment).await;
    assert_eq!(findings(&output).0, expected, "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(DAMAGED));
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(message.trim(), "berth: 4 findings; nothing was changed");
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
