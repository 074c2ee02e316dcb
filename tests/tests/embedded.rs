//! The interface that scripts may rely on: flags, exit codes, files, health, drain.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::{os::unix::fs::PermissionsExt, path::Path, process::Output, time::Duration};

use berth_testkit::{Berth, Client, Content, binary};
use reqwest::Method;

fn berth(arguments: &[&str]) -> Output {
    std::process::Command::new(binary()).args(arguments).env_remove("BERTH_ADMIN_PASSWORD").output().unwrap()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn serving(data: &Path) -> Berth {
    let arguments = ["serve", "--data", data.to_str().unwrap(), "--listen", "127.0.0.1:0", "--admin-listen"];
    let arguments = arguments.into_iter().chain(["127.0.0.1:0", "--log-format", "json"]).map(str::to_owned);
    Berth::new("berth", arguments.collect(), Vec::new())
}

#[test]
fn version_and_usage_have_their_exit_codes() {
    let version = berth(&["--version"]);
    assert!(version.status.success());
    assert!(said(&version).starts_with("berth "));
    assert_eq!(berth(&["serve", "--no-such-flag"]).status.code(), Some(2));
}

#[test]
fn a_wrong_configuration_ends_with_78_and_a_plain_message() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("berth.toml");
    let path = file.to_str().unwrap();
    for (text, named) in [
        ("[listen]\npubic = \"127.0.0.1:0\"\n", "pubic"),
        ("[listen]\npublic = \"nowhere\"\n", "listen.public"),
        ("roles = [\"gateway\"]\n", "peers.metadata"),
        ("[listen]\ngrpc = \"0.0.0.0:1\"\n", "listen.grpc"),
        ("[listen]\ntls_certificate = \"x\"\n", "tls_key"),
        ("not toml", "berth.toml"),
    ] {
        std::fs::write(&file, text).unwrap();
        for command in [["config", "check"].as_slice(), ["serve"].as_slice()] {
            let output = berth(&[command, &["--config", path]].concat());
            assert_eq!(output.status.code(), Some(78), "{text}: {}", said(&output));
            assert!(said(&output).contains(named), "{text}: {}", said(&output));
        }
    }
    assert_eq!(berth(&["config", "check", "--config", "/no/such/file"]).status.code(), Some(78));
    std::fs::write(&file, "[log]\nfilter = \"debug\"\n").unwrap();
    assert!(berth(&["config", "check", "--config", path]).status.success());
    assert!(said(&berth(&["config", "show", "--config", path])).contains("filter = \"debug\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_makes_a_password_that_only_its_owner_can_read() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let process = serving(&data);
    process.start().await.unwrap();
    let file = data.join("admin-password");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let password = std::fs::read_to_string(&file).unwrap();
    let client = Client::new(process.url()).with_credentials("admin", password.trim_end());
    let image = Content::seeded(1).image(2, 1000);
    client.repository("team/app").push_image("v1", &image).await.unwrap().expect(201).unwrap();
    client.repository("team/app").pull_image("v1", &image).await.unwrap();
    assert!(
        !process.log().iter().any(|line| line.contains(password.trim_end())),
        "the password is in the log"
    );
    for name in ["root.key", "metadata.db", "instance-manager.db"] {
        let mode = std::fs::metadata(data.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{name} is open to others: {mode:o}");
    }

    // A second process on the folder is refused in plain words.
    let second = berth(&[
        "serve",
        "--data",
        data.to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(second.status.code(), Some(1));
    assert!(said(&second).contains("in use by another Berth process"), "{}", said(&second));
    let migrate = berth(&["migrate", "--data", data.to_str().unwrap()]);
    assert!(said(&migrate).contains("in use by another Berth process"), "{}", said(&migrate));

    // A restart keeps content and password.
    process.restart().await.unwrap();
    let client = Client::new(process.url()).with_credentials("admin", password.trim_end());
    client.repository("team/app").pull_image("v1", &image).await.unwrap();
    // Stopped by SIGTERM it ends well.
    process.terminate();
    assert!(process.wait_exit(Duration::from_secs(30)).await.unwrap().success());
    assert!(berth(&["migrate", "--data", data.to_str().unwrap()]).status.success());
}

/// A process that can't leave the password where it says must not have set it.
#[tokio::test(flavor = "multi_thread")]
async fn a_generated_password_that_could_not_be_written_was_not_set_either() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let file = data.join("admin-password");
    std::fs::create_dir_all(&file).unwrap();
    let folder_of_data = data.to_str().unwrap();
    let refused = berth(&[
        "serve",
        "--data",
        folder_of_data,
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("admin-password"), "{}", said(&refused));
    std::fs::remove_dir(&file).unwrap();
    // Left behind by a process that died before the password was set.
    std::fs::write(&file, "another password\n").unwrap();
    let process = serving(&data);
    process.start().await.unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let password = std::fs::read_to_string(&file).unwrap();
    let client = Client::new(process.url()).with_credentials("admin", password.trim_end());
    assert_eq!(client.token_reply(&[]).await.unwrap().status, 200);
    // A given password makes the file untrue.
    process.terminate();
    process.wait_exit(Duration::from_secs(30)).await.unwrap();
    let process = serving(&data).with_env("BERTH_ADMIN_PASSWORD", "a given password");
    process.start().await.unwrap();
    assert!(!file.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_given_password_replaces_the_old_one() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    for password in ["first password", "second password"] {
        std::fs::write(&file, format!("{password}\n")).unwrap();
        let process = serving(&folder.path().join("data"))
            .with_env("BERTH_ADMIN_PASSWORD_FILE", file.to_str().unwrap());
        process.start().await.unwrap();
        let login = |secret: &str| Client::new(process.url()).with_credentials("admin", secret);
        assert_eq!(login(password).token_reply(&[]).await.unwrap().status, 200);
        assert_eq!(login("another password").token_reply(&[]).await.unwrap().status, 401);
        process.terminate();
        process.wait_exit(Duration::from_secs(30)).await.unwrap();
    }
    let short = std::process::Command::new(binary())
        .args(["serve", "--data", folder.path().join("data").to_str().unwrap()])
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .env("BERTH_ADMIN_PASSWORD", "short")
        .output()
        .unwrap();
    assert!(said(&short).contains("at least 8 characters"), "{}", said(&short));
}

#[tokio::test(flavor = "multi_thread")]
async fn health_readiness_and_metrics_are_on_the_admin_listener() {
    let folder = tempfile::tempdir().unwrap();
    let process = serving(&folder.path().join("data"));
    process.start().await.unwrap();
    let admin = Client::new(format!("http://{}", process.address("admin").unwrap()));
    assert_eq!(admin.call(Method::GET, "/healthz").send().await.unwrap().status, 200);
    assert_eq!(admin.call(Method::GET, "/readyz").send().await.unwrap().status, 200);
    let registry = Client::new(process.url());
    assert_eq!(registry.call(Method::GET, "/v2/").send().await.unwrap().status, 401);
    let metrics = admin.call(Method::GET, "/metrics").send().await.unwrap();
    let text = String::from_utf8_lossy(&metrics.body).into_owned();
    assert!(
        text.contains("berth_gateway_requests_total{route=\"base\",method=\"GET\",status=\"401\"} 1"),
        "{text}"
    );
    assert!(text.ends_with("# EOF\n"), "{text}");
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(
            registry.call(Method::GET, path).send().await.unwrap().status,
            404,
            "{path} is not for clients"
        );
    }
}
