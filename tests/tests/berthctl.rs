//! berthctl against the built registry: what its page says, logins that are remembered, refusals that say what to do.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use berth_testkit::{ADMIN, Deployment, PASSWORD, Setting, in_every_setting};
use tokio::io::AsyncWriteExt;

/// The built program: beside the registry's, unless the environment says otherwise.
fn program() -> PathBuf {
    let beside = || Path::new(&std::env::var_os("BERTH_BIN").unwrap()).with_file_name("berthctl");
    std::env::var_os("BERTHCTL_BIN").map_or_else(beside, PathBuf::from)
}

/// A home of one's own.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn config(&self) -> PathBuf {
        self.0.path().join("config")
    }

    async fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = tokio::process::Command::new(program())
            .args(arguments)
            .env_clear()
            .env("BERTH_CONFIG", self.config())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).await.unwrap();
        drop(stdin);
        child.wait_with_output().await.unwrap()
    }

    async fn said(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments, "").await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    async fn login(&self, deployment: &Deployment) {
        let url = deployment.url();
        let output = self.run(&["login", &url, "--user", ADMIN, "--password-file", "-"], PASSWORD).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

fn refusal(output: &Output) -> (i32, String) {
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
}

in_every_setting! {
    async fn a_login_is_remembered_and_forgotten(deployment: &'static Deployment) {
        let home = Home::new();
        let before = home.run(&["repository", "list"], "").await;
        let (code, text) = refusal(&before);
        assert!(code == 2 && text.contains("berthctl login"), "{text}");
        home.login(deployment).await;
        assert!(home.said(&["whoami"]).await.contains("admin"));
        let tokens = home.config().join("tokens.json");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&tokens), mode(&home.config())), (0o600, 0o700));
        for file in ["config.toml", "tokens.json"] {
            let text = std::fs::read_to_string(home.config().join(file)).unwrap();
            assert!(!text.contains(PASSWORD), "{file}");
        }
        assert!(home.said(&["context", "list"]).await.contains(&deployment.url()));
        // What others can read is not used.
        std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o644)).unwrap();
        let (code, text) = refusal(&home.run(&["whoami"], "").await);
        assert!(code == 2 && text.contains("chmod 600"), "{text}");
        std::fs::set_permissions(&tokens, std::fs::Permissions::from_mode(0o600)).unwrap();
        // The token goes to whoever gave it out, and to nobody else.
        let (code, text) = refusal(&home.run(&["whoami", "--server", "http://127.0.0.1:9"], "").await);
        assert!(code == 3 && text.contains("does not answer"), "{text}");
        let kept = std::fs::read_to_string(&tokens).unwrap();
        home.said(&["logout"]).await;
        let token = kept.split('"').find(|part| part.starts_with("berth_")).unwrap().to_owned();
        let call = deployment.anonymous().call(reqwest::Method::GET, "/api/v1/identity").bearer(token);
        assert_eq!(call.send().await.unwrap().status, 401);
        let (code, text) = refusal(&home.run(&["whoami"], "").await);
        assert!(code == 1 && text.contains("berthctl login") && text.contains("UNAUTHORIZED"), "{text}");
    }

    async fn a_refusal_says_what_to_do_and_which_request_it_was(deployment: &'static Deployment) {
        let home = Home::new();
        let wrong = ["login", &deployment.url(), "--user", "nobody-of-that-name", "--password-file", "-"];
        let (code, text) = refusal(&home.run(&wrong, "wrong password").await);
        assert!(code == 1 && text.contains("the user name or the password is wrong"), "{text}");
        home.login(deployment).await;
        for (arguments, expected, words) in [
            (&["namespace", "get", "absent"][..], 1, "there is no namespace absent"),
            (&["namespace", "create", "--name", "NO"], 1, "lower-case"),
            (&["namespace", "create"], 2, "--name"),
            (&["namespace", "fly"], 2, "fly"),
            (&["robot", "create", "--name", "x", "--grant", "rule=reader"], 2, "role"),
            (&["user", "list", "--instance", "nowhere"], 1, "there is no instance nowhere"),
        ] {
            let (code, text) = refusal(&home.run(arguments, "").await);
            assert!(code == expected && text.contains(words), "{arguments:?}: {code} {text}");
        }
        let (_, text) = refusal(&home.run(&["namespace", "get", "absent"], "").await);
        assert!(text.contains("NOT_FOUND, request 01"), "{text}");
        let (code, text) = refusal(&home.run(&["login", "http://registry.example.com", "--user", "a"], "").await);
        assert!(code == 2 && text.contains("--plain-http"), "{text}");
    }
}

/// The commands of a page: what stands between ```sh and ```, in order.
fn commands(page: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let text = std::fs::read_to_string(file).unwrap();
    let mut script = "set -euo pipefail\n".to_owned();
    for block in text.split("```sh\n").skip(1) {
        script.push_str(block.split("```").next().unwrap());
    }
    script
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_is_set_up_with_berthctl_and_its_page_alone() {
    let deployment = Deployment::builder(Setting::EMBEDDED).start().await.unwrap();
    let home = Home::new();
    let folder = home.0.path();
    std::fs::write(folder.join("layer.tar"), [0; 1024]).unwrap();
    let crane = PathBuf::from(std::env::var_os("BERTH_CLIENTS").unwrap());
    let path = format!(
        "{}:{}:{}",
        program().parent().unwrap().display(),
        crane.display(),
        std::env::var("PATH").unwrap()
    );
    let output = tokio::process::Command::new("bash")
        .args(["-c", &commands("berthctl.md")])
        .current_dir(folder)
        .env("PATH", path)
        .env("HOME", folder)
        .env("DOCKER_CONFIG", folder.join("docker"))
        .env("BERTH_CONFIG", home.config())
        .env("BERTH", deployment.url())
        .env("PASSWORD", PASSWORD)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    // The push is in the audit, by the robot, and only the tag that stayed is there.
    assert!(out.contains("artifact.pushed") && out.contains("robot:"), "{out}");
    assert_eq!(deployment.client().repository("team/app").tags().await.unwrap(), ["v1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn shells_complete_all_of_it() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Home::new().said(&["completion", shell]).await;
        assert!(script.contains("identity-provider") && script.contains("immutable-tags"), "{shell}");
    }
}
