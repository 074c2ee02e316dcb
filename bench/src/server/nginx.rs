//! nginx as a limit: the same bytes as files, `sendfile` on, one process.

use std::path::Path;

use super::{Authorise, Kind, Server};
use crate::process::{Process, free_address};

pub(super) async fn start(program: &str, folder: &Path, files: &Path) -> anyhow::Result<Server> {
    let address = free_address()?;
    let config = folder.join("nginx.conf");
    let text = format!(
        "daemon off;\nmaster_process off;\nuser root;\npid {folder}/nginx.pid;\nerror_log /dev/null;\n\
         events {{ worker_connections 2048; }}\n\
         http {{\n  access_log off;\n  sendfile on;\n  tcp_nopush on;\n  keepalive_requests 100000000;\n  \
         default_type application/octet-stream;\n  open_file_cache max=1000;\n  open_file_cache_valid 60s;\n  \
         client_body_temp_path {folder}/body;\n  proxy_temp_path {folder}/proxy;\n  \
         fastcgi_temp_path {folder}/fastcgi;\n  uwsgi_temp_path {folder}/uwsgi;\n  scgi_temp_path {folder}/scgi;\n  \
         server {{ listen {address}; root {root}; }}\n}}\n",
        folder = folder.display(),
        root = files.display(),
    );
    std::fs::write(&config, text)?;
    let arguments = ["-p", &folder.display().to_string(), "-c", &config.display().to_string()];
    let mut process = Process::start(program, &arguments, &[])?;
    process.listens(address).await?;
    Ok(Server { kind: Kind::Nginx, address, process, authorise: Authorise::Nothing, _storage: None })
}
