//! An OpenID Connect issuer of other people's code: the example server of github.com/zitadel/oidc, which `BERTH_OIDC_SERVER`
//! names. Its clients are `web` and `api`, both with the secret `secret`; its users `id1` and `id2`.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use anyhow::{Context, bail};
use reqwest::Method;

use crate::{client::http_client, eventually, janitor};

/// A running issuer. It ends when it is dropped, or with the test process.
#[derive(Debug)]
pub struct OidcIssuer {
    port: u16,
    child: Mutex<Child>,
}

impl OidcIssuer {
    /// Starts it; browsers may be sent back to these URLs.
    ///
    /// # Errors
    /// When the program is missing, or does not answer in time.
    pub async fn start(redirect_uris: &[String]) -> anyhow::Result<Self> {
        let program = std::env::var("BERTH_OIDC_SERVER")
            .context("BERTH_OIDC_SERVER names the OpenID Connect server; use tests/run")?;
        // Free a moment ago; whoever takes it meanwhile makes the wait below fail.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new(program)
            .env_clear()
            .env("PORT", port.to_string())
            .env("REDIRECT_URI", redirect_uris.join(","))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("can't run the OpenID Connect server")?;
        janitor::started(child.id());
        let issuer = Self { port, child: Mutex::new(child) };
        let url = format!("{}.well-known/openid-configuration", issuer.url());
        let http = http_client(false);
        let asks =
            || async { http.get(&url).send().await.ok().filter(|answer| answer.status().is_success()) };
        eventually("the issuer answers", asks).await?;
        Ok(issuer)
    }

    /// What its tokens name as their issuer.
    pub fn url(&self) -> String {
        format!("http://localhost:{}/", self.port)
    }

    /// Ends it.
    pub fn stop(&self) {
        let mut child = self.child.lock().unwrap();
        let _ended_already = child.kill();
        if child.wait().is_ok() {
            janitor::ended(child.id());
        }
    }

    /// Plays a person at a browser: goes where a login begins, fills in the form, and returns where the browser is sent
    /// back to.
    ///
    /// # Errors
    /// When a step is not what a browser would see.
    pub async fn log_in(&self, location: &str, user: &str, password: &str) -> anyhow::Result<String> {
        let http = http_client(false);
        let follow = async |method: Method, url: String, form: Option<String>| {
            let mut request = http.request(method, &url);
            if let Some(form) = form {
                request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
            }
            let answer = request.send().await?;
            if !answer.status().is_redirection() {
                let status = answer.status();
                bail!("{url} answers {status}: {}", answer.text().await.unwrap_or_default());
            }
            let target = answer.headers().get("location").context("a redirect to nowhere")?.to_str()?;
            let target = match target.strip_prefix('/') {
                Some(path) => format!("{}{path}", self.url()),
                None => target.to_owned(),
            };
            Ok(target)
        };
        let login = follow(Method::GET, location.to_owned(), None).await?;
        let (page, id) = login.split_once("?authRequestID=").context("no login form")?;
        let encode = |text: &str| {
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
        };
        let form = format!("id={}&username={}&password={}", encode(id), encode(user), encode(password));
        let back = follow(Method::POST, page.to_owned(), Some(form)).await?;
        follow(Method::GET, back, None).await
    }
}

impl Drop for OidcIssuer {
    fn drop(&mut self) {
        self.stop();
    }
}
