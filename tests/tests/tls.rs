//! Which HTTP a client gets: 1.1 and 2 by ALPN over TLS, both over plain TCP.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::time::Duration;

use berth_testkit::{ADMIN, Berth, Client, Content, PASSWORD, raw};
use reqwest::{Certificate, Version};
use tempfile::TempDir;

struct Registry {
    process: Berth,
    certificate: String,
    _folder: TempDir,
}

async fn over_tls() -> Registry {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let process = Berth::single(&folder.path().join("data"))
        .with_env("BERTH__LISTEN__TLS_CERTIFICATE", certificate.to_str().unwrap())
        .with_env("BERTH__LISTEN__TLS_KEY", key.to_str().unwrap());
    process.start().await.unwrap();
    Registry { process, certificate: made.cert.pem(), _folder: folder }
}

fn client(certificate: &str) -> reqwest::ClientBuilder {
    // Its first client installs the cryptography of this process.
    let _installs = Client::new("http://localhost");
    let root = Certificate::from_pem(certificate.as_bytes()).unwrap();
    reqwest::Client::builder().no_proxy().tls_certs_only([root])
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_offers_both_versions_and_challenges_lead_to_https() {
    let registry = over_tls().await;
    let address = registry.process.address("public").unwrap();
    let url = format!("https://localhost:{}", address.port());
    for (builder, version) in [
        (client(&registry.certificate).http1_only(), Version::HTTP_11),
        (client(&registry.certificate), Version::HTTP_2),
    ] {
        let http = builder.build().unwrap();
        let refused = http.get(format!("{url}/v2/")).send().await.unwrap();
        assert_eq!((refused.version(), refused.status().as_u16()), (version, 401));
        let challenge = refused.headers()["www-authenticate"].to_str().unwrap().to_owned();
        assert!(challenge.starts_with(&format!("Bearer realm=\"{url}/token\"")), "{challenge}");
        let token = http.get(format!("{url}/token?service=default")).basic_auth(ADMIN, Some(PASSWORD));
        let token: serde_json::Value = token.send().await.unwrap().json().await.unwrap();
        let accepted = http.get(format!("{url}/v2/")).bearer_auth(token["token"].as_str().unwrap());
        assert_eq!(accepted.send().await.unwrap().status().as_u16(), 200);
    }
    // Plain HTTP on the port of TLS is refused, and holds nothing up.
    assert!(raw::get(address, "/v2/").await.is_err());
    registry.process.terminate();
    assert!(registry.process.wait_exit(Duration::from_secs(30)).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_trust_the_certificate_gets_nothing() {
    let registry = over_tls().await;
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let http = client(&other.cert.pem()).build().unwrap();
    let url = format!("https://localhost:{}/v2/", registry.process.address("public").unwrap().port());
    assert!(http.get(url).send().await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_needs_no_tls_when_a_client_knows_before() {
    let folder = tempfile::tempdir().unwrap();
    let process = Berth::single(&folder.path().join("data"));
    process.start().await.unwrap();
    let plain = Client::new(process.url()).with_credentials(ADMIN, PASSWORD).over_http2();
    let image = Content::named("h2c").image(2, 300_000);
    let repository = plain.repository("h2c/app");
    repository.push_image("v1", &image).await.unwrap().expect(201).unwrap();
    repository.pull_image("v1", &image).await.unwrap();
    let reply = plain.call(reqwest::Method::GET, "/v2/").open().await.unwrap();
    assert_eq!((reply.version(), reply.status().as_u16()), (Version::HTTP_2, 401));
    let challenge = reply.headers()["www-authenticate"].to_str().unwrap();
    assert!(challenge.starts_with(&format!("Bearer realm=\"{}/token\"", process.url())), "{challenge}");
}
