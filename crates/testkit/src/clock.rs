//! Clocks that are wrong, for one process.

use std::path::{Path, PathBuf};

use reqwest::Method;

use crate::{Client, Deployment};

/// Debian's libfaketime: a library that lies about the time to one process.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

/// A process whose clock can be set.
#[derive(Debug)]
pub struct Skewed<'a> {
    deployment: &'a Deployment,
    role: &'a str,
    file: PathBuf,
}

impl<'a> Skewed<'a> {
    /// Restarts `role` with a clock that is `seconds` off.
    pub async fn start(deployment: &'a Deployment, role: &'a str, seconds: i32) -> Self {
        assert!(Path::new(FAKETIME).is_file(), "install the Debian package libfaketime");
        let skewed = Self { deployment, role, file: deployment.folder().join("clock") };
        skewed.step(seconds);
        let process = deployment.process(role);
        process.set_env("LD_PRELOAD", Some(FAKETIME.to_owned()));
        process.set_env("FAKETIME_TIMESTAMP_FILE", Some(skewed.file.display().to_string()));
        process.set_env("FAKETIME_NO_CACHE", Some("1".to_owned()));
        process.set_env("FAKETIME_DONT_FAKE_MONOTONIC", Some("1".to_owned()));
        process.kill();
        deployment.restart(role).await.unwrap();
        skewed
    }

    /// Sets the clock so many seconds off, at once.
    pub fn step(&self, seconds: i32) {
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).unwrap();
        std::fs::rename(new, &self.file).unwrap();
    }

    /// How many seconds the clock of a gateway is off, by the id that it gives to a request.
    pub async fn gateway_is_off(&self) -> i64 {
        let gateway = self.deployment.client_of_gateway(0);
        let reply = gateway.call(Method::GET, "/v2/").send().await.unwrap();
        let id: ulid::Ulid = reply.header("x-request-id").unwrap().parse().unwrap();
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis();
        (i64::try_from(id.timestamp_ms()).unwrap() - i64::try_from(now).unwrap()) / 1000
    }

    /// How many seconds the clock of a process was off when it began to answer; a server that looks at a clock which steps
    /// back goes on saying the later date.
    pub async fn began_off(&self) -> i64 {
        let admin = self.deployment.process(self.role).address("admin").unwrap();
        let reply =
            Client::new(format!("http://{admin}")).call(Method::GET, "/healthz").send().await.unwrap();
        let date = httpdate::parse_http_date(reply.header("date").unwrap()).unwrap();
        let date = date.duration_since(std::time::UNIX_EPOCH).unwrap();
        let now = std::time::UNIX_EPOCH.elapsed().unwrap();
        i64::try_from(date.as_secs()).unwrap() - i64::try_from(now.as_secs()).unwrap()
    }

    /// Restarts the process with the right clock.
    pub async fn right_again(self) {
        self.deployment.process(self.role).set_env("LD_PRELOAD", None);
        self.deployment.process(self.role).kill();
        self.deployment.restart(self.role).await.unwrap();
    }
}
