//! hyper and nothing else as a limit: every file of a folder in memory, answered by its path.

use std::{collections::HashMap, convert::Infallible, fs, net::SocketAddr, path::Path, sync::Arc};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;

use super::{Authorise, Kind, Server};
use crate::process::{Process, free_address};

pub(super) async fn start(files: &Path) -> anyhow::Result<Server> {
    let address = free_address()?;
    let program = std::env::current_exe()?.display().to_string();
    let (address_text, files) = (address.to_string(), files.display().to_string());
    let mut process = Process::start(&program, &["serve-bare", &address_text, &files], &[])?;
    process.listens(address).await?;
    Ok(Server { kind: Kind::Bare, address, process, authorise: Authorise::Nothing, _storage: None })
}

/// Serves until the process is ended.
pub(crate) async fn serve(address: SocketAddr, files: &Path) -> anyhow::Result<()> {
    let mut contents = HashMap::new();
    read(files, "", &mut contents)?;
    let contents = Arc::new(contents);
    let listener = tokio::net::TcpListener::bind(address).await?;
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let contents = Arc::clone(&contents);
        let service = service_fn(move |request: Request<Incoming>| {
            let found = contents.get(request.uri().path()).cloned();
            async move {
                let status = if found.is_some() { 200 } else { 404 };
                let mut response = Response::new(Full::new(found.unwrap_or_default()));
                *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
                let octets = header::HeaderValue::from_static("application/octet-stream");
                response.headers_mut().insert(header::CONTENT_TYPE, octets);
                Ok::<_, Infallible>(response)
            }
        });
        connections.spawn(async move {
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await
        });
        while connections.try_join_next().is_some() {}
    }
}

fn read(folder: &Path, path: &str, contents: &mut HashMap<String, Bytes>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = format!("{path}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            read(&entry.path(), &path, contents)?;
        } else {
            contents.insert(path, fs::read(entry.path())?.into());
        }
    }
    Ok(())
}
