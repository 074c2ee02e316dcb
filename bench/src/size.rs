//! What the size of a registry costs: gets and lists on a thousand manifests, and on a million with eight million tags.
//!
//! The content of the first repository comes through the API. The rest is written into Berth's database as the API would have
//! written it: repositories of ten manifests with eight tags each, of the same two blobs, where the last manifest refers to
//! the first. What is asked is spread evenly over a sample of the repositories.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context;
use berth_oci::{Algorithm, Digest};
use rand::{Rng, SeedableRng, rngs::StdRng};
use sqlx::{Connection as _, QueryBuilder, Row as _, Sqlite, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    data,
    http::{Connection, head},
    load,
    operation::{Operation, push_blob, put_manifest},
    server::{BerthPlan, Server},
};

/// Manifests of a repository.
const MANIFESTS: usize = 10;
/// Tags of a manifest.
const TAGS: usize = 8;
/// Repositories of a namespace.
const REPOSITORIES: usize = 100;
/// Repositories that are asked about; each needs a token of its own.
const SAMPLE: usize = 400;
/// Repositories that one transaction writes.
const AT_ONCE: usize = 500;
const CONFIG: &[u8] = b"{}";
const LAYER: &[u8] = b"a layer of the benchmark";
const SEED: u64 = 0x512E;

/// A Berth with so many manifests, rounded to whole repositories.
pub(crate) async fn filled(
    program: &str,
    folder: &Path,
    manifests: usize,
) -> anyhow::Result<(BerthPlan, usize)> {
    let repositories = manifests.div_ceil(MANIFESTS).max(1);
    let plan = BerthPlan::new(program, folder);
    let server = plan.start().await?;
    let name = path(0);
    let authorisation = server.pusher(&name).await?;
    let mut connection = Connection::open(server.address).await?;
    for blob in [CONFIG, LAYER] {
        push_blob(&mut connection, &authorisation, &name, blob, &data::digest(blob)).await?;
    }
    put_manifest(&mut connection, &authorisation, &name, &tag(0, 0), &manifest(0, 0)).await?;
    server.process.stop()?;
    write(&plan.data().join("metadata.db"), repositories).await?;
    Ok((plan, repositories))
}

fn path(repository: usize) -> String {
    format!("size{}/app{}", repository / REPOSITORIES, repository % REPOSITORIES)
}

fn tag(manifest: usize, tag: usize) -> String {
    format!("v{manifest}.{tag}")
}

/// A manifest that no other repository has.
fn manifest(repository: usize, number: usize) -> Vec<u8> {
    let descriptor = |bytes: &[u8]| (data::digest(bytes), bytes.len());
    let number = (repository * MANIFESTS + number) as u64;
    data::image_of(&descriptor(CONFIG), &[descriptor(LAYER)], number)
}

fn digest(bytes: &[u8]) -> Vec<u8> {
    Digest::of(Algorithm::Sha256, bytes).to_bytes()
}

/// Ids in order, as those that the registry makes.
fn id(kind: char, number: usize) -> String {
    format!("01{kind}{number:023}")
}

/// Writes what is missing.
async fn write(file: &Path, repositories: usize) -> anyhow::Result<()> {
    let options =
        SqliteConnectOptions::new().filename(file).foreign_keys(true).pragma("cache_size", "-262144");
    let mut database = SqliteConnection::connect_with(&options).await?;
    let first =
        sqlx::query("SELECT id, instance_id, namespace_id, created_at FROM repositories WHERE path = $1")
            .bind(path(0))
            .fetch_one(&mut database)
            .await?;
    let (instance, namespace, now): (String, String, i64) = (first.get(1), first.get(2), first.get(3));
    let mut home = namespace;
    for start in (0..repositories).step_by(AT_ONCE) {
        sqlx::query("BEGIN IMMEDIATE").execute(&mut database).await?;
        for repository in start..repositories.min(start + AT_ONCE) {
            let known = (repository == 0).then(|| first.get::<String, _>(0));
            if known.is_none() && repository.is_multiple_of(REPOSITORIES) {
                home = id('N', repository);
                let values = "INSERT INTO namespaces (id, instance_id, name, made_by_push, created_at) \
                    VALUES ($1, $2, $3, 1, $4)";
                sqlx::query(values)
                    .bind(&home)
                    .bind(&instance)
                    .bind(format!("size{}", repository / REPOSITORIES))
                    .bind(now)
                    .execute(&mut database)
                    .await?;
            }
            let of = Repository { number: repository, instance: &instance, namespace: &home, now };
            of.write(&mut database, known).await?;
        }
        sqlx::query("COMMIT").execute(&mut database).await?;
    }
    sqlx::query(
        "UPDATE instance_limits SET namespaces = (SELECT count(*) FROM namespaces), \
         repositories = (SELECT count(*) FROM repositories)",
    )
    .execute(&mut database)
    .await?;
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut database).await?;
    database.close().await?;
    Ok(())
}

struct Repository<'a> {
    number: usize,
    instance: &'a str,
    namespace: &'a str,
    now: i64,
}

impl Repository<'_> {
    /// Writes the repository, unless it is known, and its manifests and tags.
    async fn write(&self, database: &mut SqliteConnection, known: Option<String>) -> anyhow::Result<()> {
        let is_new = known.is_none();
        let id = known.unwrap_or_else(|| id('R', self.number));
        if is_new {
            sqlx::query(
                "INSERT INTO repositories (id, instance_id, namespace_id, path, provisional, created_at, updated_at) \
                 VALUES ($1, $2, $3, $4, 0, $5, $5)",
            )
            .bind(&id)
            .bind(self.instance)
            .bind(self.namespace)
            .bind(path(self.number))
            .bind(self.now)
            .execute(&mut *database)
            .await?;
            let links = "INSERT INTO links (repository_id, digest, instance_id, linked_at) \
                SELECT $1, digest, instance_id, $2 FROM blobs";
            sqlx::query(links).bind(&id).bind(self.now).execute(&mut *database).await?;
        }
        // The first manifest of the first repository came through the API, with its first tag.
        let manifests: Vec<_> =
            (usize::from(!is_new)..MANIFESTS).map(|number| manifest(self.number, number)).collect();
        let subject = digest(&manifest(self.number, 0));
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO manifests (repository_id, digest, size, media_type, artifact_type, subject, pushed_at, \
             annotations, payload) ",
        );
        let last = manifests.len() - 1;
        query.push_values(manifests.iter().enumerate(), |mut row, (index, bytes)| {
            row.push_bind(&id).push_bind(digest(bytes)).push_bind(bytes.len() as i64);
            row.push_bind(data::MANIFEST).push_bind("application/vnd.berth.bench");
            row.push_bind((index == last).then_some(subject.as_slice()));
            row.push_bind(self.now).push_bind("{}").push_bind(bytes);
        });
        query.build().execute(&mut *database).await?;
        sqlx::query(
            "INSERT OR IGNORE INTO manifest_blobs SELECT m.repository_id, m.digest, l.digest FROM manifests m \
             JOIN links l ON l.repository_id = m.repository_id WHERE m.repository_id = $1",
        )
        .bind(&id)
        .execute(&mut *database)
        .await?;
        let first = MANIFESTS - manifests.len();
        let tags = manifests.iter().enumerate().flat_map(|(index, bytes)| {
            (0..TAGS).map(move |number| (tag(first + index, number), digest(bytes)))
        });
        let mut query = QueryBuilder::<Sqlite>::new(
            "INSERT INTO tags (repository_id, name, digest, version, updated_at) ",
        );
        query.push_values(tags, |mut row, (name, digest)| {
            row.push_bind(&id).push_bind(name).push_bind(digest).push_bind(0_i64).push_bind(self.now);
        });
        query.build().execute(&mut *database).await?;
        Ok(())
    }
}

/// What is asked, and its requests.
async fn requests(server: &Server, repositories: usize) -> anyhow::Result<Vec<(&'static str, Operation)>> {
    let mut random = StdRng::seed_from_u64(SEED);
    let sample: Vec<usize> = if repositories <= SAMPLE {
        (0..repositories).collect()
    } else {
        (0..SAMPLE).map(|_| random.random_range(0..repositories)).collect()
    };
    let mut asked: [Vec<(Vec<u8>, u16)>; 5] = Default::default();
    for repository in sample {
        let name = path(repository);
        let authorisation = server.puller(&name).await?;
        let headers = [("Authorization", authorisation.as_str()), ("Accept", data::MANIFEST)];
        let get = |target: String| (head("GET", &format!("/v2/{name}/{target}"), &headers, None), 200);
        // The first manifest of the first repository has one tag.
        for number in 1..MANIFESTS {
            let digest = data::digest(&manifest(repository, number));
            asked[0].push(get(format!("manifests/{}", tag(number, random.random_range(0..TAGS)))));
            asked[1].push(get(format!("manifests/{digest}")));
            let after = tag(random.random_range(0..MANIFESTS), random.random_range(0..TAGS));
            asked[2].push(get(format!("tags/list?n=20&last={after}")));
        }
        asked[3].push(get(format!("referrers/{}", data::digest(&manifest(repository, 0)))));
    }
    let authorisation = server.lister().await?;
    for _ in 0..SAMPLE {
        // A page of fifty is left behind any of these.
        let after = path(random.random_range(0..repositories.saturating_sub(60).max(1)));
        let target = format!("/v2/_catalog?n=20&last={after}");
        asked[4].push((head("GET", &target, &[("Authorization", &authorisation)], None), 200));
    }
    let names =
        ["GET manifest by tag", "GET manifest by digest", "tags list, 20 of 80", "referrers", "catalog, 20"];
    for requests in &mut asked {
        for index in (1..requests.len()).rev() {
            requests.swap(index, random.random_range(0..=index));
        }
    }
    Ok(names.into_iter().zip(asked.map(|requests| Operation::Requests(Arc::new(requests)))).collect())
}

/// Compares a large data set with a small one.
pub(crate) async fn compare(
    program: &str,
    folder: &Path,
    (small, large): (usize, usize),
    time: Duration,
) -> anyhow::Result<()> {
    println!("| operation | manifests | tags | first, p95, us | again, p50, us | again, p95, us |");
    println!("|---|---:|---:|---:|---:|---:|");
    let mut sizes = Vec::new();
    for manifests in [small, large] {
        let home = folder.join(manifests.to_string());
        let (plan, repositories) = filled(program, &home, manifests).await?;
        let server = plan.start().await?;
        for (name, operation) in requests(&server, repositories).await? {
            let Operation::Requests(all) = &operation else { continue };
            // Each for the first time, and then whatever is kept in memory counts.
            let first = load::closed(server.address, &operation, 1, Duration::MAX, all.len() as u64).await?;
            let first = first.sound()?.all();
            let again = load::closed(server.address, &operation, 1, time, u64::MAX).await?.sound()?.all();
            println!(
                "| {name} | {} | {} | {} | {} | {} |",
                repositories * MANIFESTS,
                repositories * MANIFESTS * TAGS,
                first.percentile(0.95),
                again.percentile(0.5),
                again.percentile(0.95)
            );
        }
        let bytes = std::fs::metadata(plan.data().join("metadata.db")).context("no database")?.len();
        sizes.push((repositories * MANIFESTS, bytes >> 20, server.process.resident()? >> 20));
    }
    for (manifests, database, resident) in sizes {
        println!(
            "{manifests} manifests: the database has {database} MiB, the process {resident} MiB resident"
        );
    }
    Ok(())
}
