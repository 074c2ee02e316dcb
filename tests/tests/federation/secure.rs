//! An issuer with TLS whose certificate is of a private authority, and whose keys change.

use std::sync::{Arc, Mutex};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use berth_testkit::{Deployment, Setting};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer},
};

use crate::shows;

/// A key and its JWK.
fn key(id: &str) -> (EncodingKey, Value) {
    let pair = rcgen::KeyPair::generate().unwrap();
    // An uncompressed point: 4, x, y.
    let point = pair.public_key_raw().to_vec();
    let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..65]));
    let jwk = json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": id, "x": x, "y": y });
    (EncodingKey::from_ec_der(&pair.serialize_der()), jwk)
}

fn token(issuer: &str, id: &str, key: &EncodingKey) -> String {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let claims = json!({
        "iss": issuer, "aud": "registry", "iat": now, "exp": now + 600,
        "sub": "project_path:acme/app:ref_type:branch:ref:main", "project_path": "acme/app", "ref_protected": "true",
    });
    let mut header = Header::new(Algorithm::ES256);
    header.kid = Some(id.to_owned());
    encode(&header, &claims, key).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_come_by_tls_and_may_change() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("authority.pem");
    std::fs::write(&authority, made.cert.pem()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![made.cert.der().clone()],
            PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let issuer = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let (first, published) = key("first");
    let keys = Arc::new(Mutex::new(published));
    let (served, name) = (Arc::clone(&keys), issuer.clone());
    #[expect(clippy::disallowed_methods, reason = "a test's own server")]
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut head = [0; 4096];
            let read = stream.read(&mut head).await.unwrap_or_default();
            let body = if head[..read].starts_with(b"GET /keys ") {
                json!({ "keys": [*served.lock().unwrap()] })
            } else {
                json!({ "issuer": name, "jwks_uri": format!("{name}/keys") })
            };
            let body = body.to_string();
            let length = body.len();
            let answer =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            let _closed = stream.write_all(answer.as_bytes()).await;
            let _closed = stream.shutdown().await;
        }
    });

    let start = |file: String| {
        Deployment::builder(Setting::EMBEDDED)
            .with_env("BERTH__OUTBOUND__ALLOW", r#"["127.0.0.1", "::1"]"#)
            .with_env("SSL_CERT_FILE", file)
            .start()
    };
    let prepare = async |deployment: &Deployment| {
        for arguments in [
            &["identity-provider", "create", "gitlab", issuer.as_str()] as &[&str],
            &["create-robot", "ci"],
            &[
                "trust",
                "create",
                "gitlab",
                "ci",
                "--audience",
                "registry",
                "--claim",
                "project_path=acme/*",
                "--claim",
                "ref_protected=true",
            ],
        ] {
            deployment.admin(arguments, "").await.unwrap();
        }
    };
    let deployment = start(authority.display().to_string()).await.unwrap();
    prepare(&deployment).await;
    let client = deployment.anonymous();
    let old = token(&issuer, "first", &first);
    shows(&client, "robot+ci", &old).await.expect(200).unwrap();
    // Another key: known once it is published, and then the former one is not.
    let (second, published) = key("second");
    *keys.lock().unwrap() = published;
    let new = token(&issuer, "second", &second);
    let known = || async { (shows(&client, "robot+ci", &new).await.status == 200).then_some(()) };
    berth_testkit::eventually("the new key is known", known).await.unwrap();
    assert_eq!(shows(&client, "robot+ci", &old).await.status, 401);

    // Whose authority is not known, is not believed.
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let strange = folder.path().join("other.pem");
    std::fs::write(&strange, other.cert.pem()).unwrap();
    let deployment = start(strange.display().to_string()).await.unwrap();
    prepare(&deployment).await;
    assert_eq!(shows(&deployment.anonymous(), "robot+ci", &new).await.status, 503);
}
