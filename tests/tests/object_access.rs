//! How Berth gets at object storage: credentials of every origin, certificates of one's own, encryption by the service.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use berth_service::Tasks;
use berth_testkit::{
    Builder, Client, Content, Deployment, ObjectStorage, Setting,
    object_storage::{ACCESS_KEY, SECRET_KEY},
};
use tokio_rustls::{TlsAcceptor, rustls};

/// The settings of a bucket without the credentials.
fn without_credentials(storage: &ObjectStorage) -> Builder {
    storage
        .settings()
        .into_iter()
        .filter(|(key, _)| !key.ends_with("ACCESS_KEY") && !key.ends_with("SECRET_KEY_FILE"))
        .fold(Deployment::builder(Setting::EMBEDDED), |builder, (key, value)| builder.with_env(key, value))
        // The machine that the test runs on may have some of its own.
        .with_env("AWS_EC2_METADATA_DISABLED", "true")
        .with_env("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
        .with_env("AWS_CONFIG_FILE", "/nonexistent")
}

async fn works(builder: Builder) {
    let deployment = builder.start().await.unwrap();
    let image = Content::named("access").image(2, 300_000);
    let repository = deployment.client().repository("access/app");
    repository.push_image("v1", &image).await.unwrap();
    repository.pull_image("v1", &image).await.unwrap();
    deployment.is_sound().await.unwrap();
}

/// An HTTP service that gives an answer to each method and path that it knows.
fn service(answers: Vec<(&'static str, String)>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).is_ok_and(|read| read == 1) {
                head.push(byte[0]);
            }
            let text = String::from_utf8_lossy(&head).into_owned();
            let length = text.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
            });
            let mut body = vec![0; length.unwrap_or(0)];
            let _cut = client.read_exact(&mut body);
            let found = answers.iter().find(|(start, _)| text.starts_with(start));
            let (status, answer) =
                found.map_or(("404 Not Found", ""), |(_, answer)| ("200 OK", answer.as_str()));
            let _gone = write!(
                client,
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\nx-aws-ec2-metadata-token-ttl-seconds: \
                 21600\r\n\r\n{answer}",
                answer.len()
            );
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_come_from_the_environment() {
    let storage = ObjectStorage::start();
    let builder = without_credentials(&storage)
        .with_env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .with_env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    works(builder).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_come_from_a_profile() {
    let storage = ObjectStorage::start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    let text = format!(
        "[other]\naws_access_key_id = wrong\naws_secret_access_key = wrong\n\
         [registry]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
    );
    std::fs::write(&file, text).unwrap();
    let builder = without_credentials(&storage)
        .with_env("AWS_SHARED_CREDENTIALS_FILE", file.display().to_string())
        .with_env("BERTH__BLOB_STORE__S3__PROFILE", "registry");
    works(builder).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_come_from_a_web_identity() {
    let storage = ObjectStorage::start();
    let answer = format!(
        "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
         <AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{ACCESS_KEY}</AccessKeyId>\
         <SecretAccessKey>{SECRET_KEY}</SecretAccessKey><SessionToken>session</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult>\
         </AssumeRoleWithWebIdentityResponse>"
    );
    let address = service(vec![("POST / ", answer)]);
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "a service account's token").unwrap();
    let builder = without_credentials(&storage)
        .with_env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/registry")
        .with_env("AWS_WEB_IDENTITY_TOKEN_FILE", token.display().to_string())
        .with_env("AWS_ENDPOINT_URL_STS", format!("http://{address}"));
    works(builder).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_come_from_the_machines_metadata_service() {
    let storage = ObjectStorage::start();
    let keys = serde_json::json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2026-01-01T00:00:00Z", "AccessKeyId": ACCESS_KEY,
        "SecretAccessKey": SECRET_KEY, "Token": "session", "Expiration": "2099-01-01T00:00:00Z",
    });
    let of_role = "GET /latest/meta-data/iam/security-credentials/registry ";
    let address = service(vec![
        ("PUT /latest/api/token ", "session-of-the-service".to_owned()),
        ("GET /latest/meta-data/iam/security-credentials/ ", "registry".to_owned()),
        (of_role, keys.to_string()),
    ]);
    let builder = without_credentials(&storage)
        .with_env("AWS_EC2_METADATA_DISABLED", "false")
        .with_env("AWS_EC2_METADATA_SERVICE_ENDPOINT", format!("http://{address}"));
    works(builder).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_may_be_a_host_of_its_own() {
    let storage = ObjectStorage::below("storage.example");
    let builder = storage
        .holds_blobs_of(Deployment::builder(Setting::EMBEDDED))
        .with_env("BERTH__BLOB_STORE__S3__ENDPOINT", "http://storage.example")
        .with_env("BERTH__BLOB_STORE__S3__PATH_STYLE", "false")
        .with_env("HTTP_PROXY", storage.url());
    works(builder).await;
    let log = storage.log();
    assert!(log.iter().any(|line| line.starts_with("PUT http://blobs.storage.example/i/")), "{log:#?}");
}

/// Passes connections on to the storage, over TLS.
async fn over_tls(storage: SocketAddr, certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> (u16, Tasks) {
    // The kit's first client installs the cryptography of this process.
    let _installs = Client::new("http://localhost");
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(certificate.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tasks = Tasks::new();
    let connections = tasks.clone();
    tasks.spawn("tls in front of the storage", async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            connections.spawn("connection", async move {
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let Ok(mut server) = tokio::net::TcpStream::connect(storage).await else { return };
                let _closed = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (port, tasks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_verified_by_the_authority_that_is_configured() {
    let storage = ObjectStorage::start();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (port, _tasks) = over_tls(storage.address(), &made).await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, made.cert.pem()).unwrap();
    let secure = || {
        let builder = storage.holds_blobs_of(Deployment::builder(Setting::EMBEDDED));
        builder.with_env("BERTH__BLOB_STORE__S3__ENDPOINT", format!("https://localhost:{port}"))
    };
    works(secure().with_env("BERTH__BLOB_STORE__S3__CA_FILE", ca.display().to_string())).await;
    // Without it nobody has vouched for the storage: no byte goes there.
    let before = storage.requests();
    let deployment = secure().start().await.unwrap();
    let layer = Content::named("unverified").layer(1000);
    let repository = deployment.client().repository("access/unverified");
    let upload = repository.start_upload().await.unwrap();
    let refused = repository.finish(&upload, &layer.digest.to_string(), layer.bytes.clone()).await.unwrap();
    assert_eq!(refused.status, 503);
    assert_eq!(storage.requests(), before);
}

/// Passes connections on to the storage, and keeps what it was sent.
fn overheard(storage: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::<Mutex<Vec<u8>>>::default();
    let kept = Arc::clone(&heard);
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            let Ok(mut server) = TcpStream::connect(storage) else { continue };
            let (Ok(mut to_client), Ok(mut from_server)) = (client.try_clone(), server.try_clone()) else {
                continue;
            };
            std::thread::spawn(move || std::io::copy(&mut from_server, &mut to_client));
            let kept = Arc::clone(&kept);
            std::thread::spawn(move || {
                let mut buffer = [0; 16 * 1024];
                while let Ok(length @ 1..) = client.read(&mut buffer) {
                    kept.lock().unwrap().extend_from_slice(&buffer[..length]);
                    if server.write_all(&buffer[..length]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, heard)
}

/// The heads of requests that begin an object, whole or in parts.
fn heads_of_writes(heard: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(heard);
    let starts =
        text.match_indices("HTTP/1.1\r\n").map(|(at, _)| text[..at].rfind(['\n', '\0']).map_or(0, |n| n + 1));
    starts
        .filter_map(|start| text[start..].split("\r\n\r\n").next().map(str::to_lowercase))
        .filter(|head| {
            let first = head.lines().next().unwrap_or_default();
            (first.contains("put /") && !first.contains("partnumber="))
                || (first.contains("post /") && first.contains("?uploads"))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn encryption_by_the_service_is_asked_for_with_every_object() {
    let storage = ObjectStorage::start();
    let (address, heard) = overheard(storage.address());
    let builder = storage
        .holds_blobs_of(Deployment::builder(Setting::EMBEDDED))
        .with_env("BERTH__BLOB_STORE__S3__ENDPOINT", format!("http://{address}"))
        .with_env("BERTH__BLOB_STORE__S3__SERVER_SIDE_ENCRYPTION", "aws:kms")
        .with_env("BERTH__BLOB_STORE__S3__KMS_KEY", "key-of-the-registry");
    let deployment = builder.start().await.unwrap();
    let repository = deployment.client().repository("access/encrypted");
    let mut content = Content::named("sse");
    let layers = [content.layer(1000), content.layer(20 << 20)];
    for layer in &layers {
        repository.push_blob_at_once(layer).await.unwrap();
    }
    let heads = heads_of_writes(&heard.lock().unwrap());
    assert_eq!(heads.len(), 2, "{heads:#?}");
    for head in heads {
        assert!(head.contains("x-amz-server-side-encryption: aws:kms"), "{head}");
        assert!(head.contains("x-amz-server-side-encryption-aws-kms-key-id: key-of-the-registry"), "{head}");
    }
}
