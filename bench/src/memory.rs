//! Memory: of connections that do nothing, and under many uploads at once.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::{Context, ensure};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

use crate::{
    data,
    http::{Connection, head},
    operation::open_upload,
    server::BerthPlan,
};

const MIB: usize = 1 << 20;
/// Connections before the first look, so that what is made once is there.
const BEFORE: usize = 200;

/// One that is kept: its first request is answered, and no other comes.
async fn kept<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> anyhow::Result<S> {
    stream.write_all(&head("GET", "/v2/", &[], None)).await?;
    let (mut answer, mut filled) = ([0; 4096], 0);
    while !answer[..filled].ends_with(b"}") {
        let read = stream.read(&mut answer[filled..]).await?;
        ensure!(read > 0, "the connection ended before its answer");
        filled += read;
    }
    Ok(stream)
}

fn connector(certificate: rustls::pki_types::CertificateDer<'static>) -> anyhow::Result<TlsConnector> {
    let mut roots = RootCertStore::empty();
    roots.add(certificate)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// What is resident for each thousand of so many connections, plain and with TLS.
pub(crate) async fn connections(program: &str, folder: &Path, count: usize) -> anyhow::Result<()> {
    may_open((count + BEFORE) as u64 + 100)?;
    println!("| {count} idle connections | MiB a thousand |\n|---|---:|");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (certificate, key) = (folder.join("certificate.pem"), folder.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    for tls in [false, true] {
        let home = folder.join(if tls { "tls" } else { "plain" });
        let mut plan = BerthPlan::new(program, &home).with("listen.limits.idle_seconds", "600");
        if tls {
            let place = |path: &Path| path.display().to_string();
            plan =
                plan.with("listen.tls_certificate", place(&certificate)).with("listen.tls_key", place(&key));
        }
        let server = plan.start().await?;
        let connector = connector(made.cert.der().clone())?;
        let mut open: Vec<Box<dyn Send>> = Vec::with_capacity(count + BEFORE);
        let mut before = 0;
        for number in 0..BEFORE + count {
            if number == BEFORE {
                before = server.process.resident()?;
            }
            let stream = TcpStream::connect(server.address).await?;
            open.push(if tls {
                Box::new(kept(connector.connect(ServerName::try_from("localhost")?, stream).await?).await?)
            } else {
                Box::new(kept(stream).await?)
            });
        }
        let more = server.process.resident()?.saturating_sub(before) as f64;
        let name = if tls { "TLS" } else { "plain" };
        println!("| {name} | {:.1} |", more / MIB as f64 / (count as f64 / 1000.0));
    }
    Ok(())
}

/// Has this process open as many files as it may.
fn may_open(files: u64) -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    ensure!(limit.maximum.is_none_or(|most| most >= files), "this needs {files} open files (ulimit -Hn)");
    Ok(())
}

/// The most memory that is resident while blobs are uploaded, one at a time and so many at once.
pub(crate) async fn uploads(program: &str, folder: &Path, count: usize, mib: usize) -> anyhow::Result<()> {
    println!("| uploads of {mib} MiB | most resident, MiB | more than at rest, MiB | seconds |");
    println!("|---|---:|---:|---:|");
    for at_once in [1, count] {
        let server = BerthPlan::new(program, &folder.join(format!("uploads-{at_once}"))).start().await?;
        let authorisation = Arc::new(server.pusher("bench/uploads").await?);
        server.process.forget_peak()?;
        let rest = server.process.resident()?;
        let began = std::time::Instant::now();
        let mut running = JoinSet::new();
        for number in 0..at_once {
            running.spawn(upload(server.address, Arc::clone(&authorisation), number as u64, mib));
        }
        while let Some(upload) = running.join_next().await {
            upload??;
        }
        let most = server.process.peak_resident()?;
        println!(
            "| {at_once} | {} | {} | {:.1} |",
            most >> 20,
            most.saturating_sub(rest) >> 20,
            began.elapsed().as_secs_f64()
        );
    }
    Ok(())
}

/// A blob of its own: a mebibyte of its own, and the same for everybody after it.
async fn upload(
    address: SocketAddr,
    authorisation: Arc<String>,
    number: u64,
    mib: usize,
) -> anyhow::Result<()> {
    let (own, rest) = (data::content(1000 + number, MIB), data::content(1, MIB));
    let mut hash = Sha256::new_with_prefix(&own);
    (1..mib).for_each(|_| hash.update(&rest));
    let digest = format!("sha256:{}", hex::encode(hash.finalize()));
    let mut connection = Connection::open(address).await?;
    let target = open_upload(&mut connection, &authorisation, "bench/uploads", &digest).await?;
    let headers = [("Authorization", authorisation.as_str()), ("Content-Type", "application/octet-stream")];
    connection.send(&head("PUT", &target, &headers, Some(mib * MIB))).await?;
    connection.send(&own).await?;
    for _ in 1..mib {
        connection.send(&rest).await?;
    }
    let answer = connection.exchange(&[], &[]).await.context("PUT of an upload")?;
    ensure!(answer.status == 201, "PUT of an upload: {}", answer.status);
    Ok(())
}
