//! berthctl against the built registry: what its page says, logins that are remembered, refusals that say what to do.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use berth_testkit::{ADMIN, Deployment, PASSWORD, Setting, in_every_setting, run_documented};
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
        self.run_program(&program(), arguments, input).await
    }

    /// `docker-credential-berth`.
    async fn helper(&self, action: &str, input: &str) -> (bool, String) {
        let helper = program().with_file_name("docker-credential-berth");
        let output = self.run_program(&helper, &[action], input).await;
        (output.status.success(), String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    async fn run_program(&self, program: &Path, arguments: &[&str], input: &str) -> Output {
        let mut child = tokio::process::Command::new(program)
            .args(arguments)
            .env_clear()
            .env("BERTH_CONFIG", self.config())
            .env("HOME", self.0.path())
            .env("TERM", "xterm")
            .env("GNUPGHOME", self.0.path().join("gnupg"))
            .env(
                "PATH",
                format!("{}:{}", self.0.path().join("bin").display(), std::env::var("PATH").unwrap()),
            )
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

in_every_setting! {
    async fn docker_gets_stores_and_erases_logins(deployment: &'static Deployment) {
        let home = Home::new();
        let (url, host) = (deployment.url(), deployment.address().to_string());
        let (done, said) = home.helper("get", &host).await;
        assert!(!done && said == "credentials not found in native keychain", "{said}");
        for (action, input) in [("store", "{}"), ("store", "no JSON"), ("fly", "")] {
            assert!(!home.helper(action, input).await.0, "{action} {input}");
        }
        let login = |secret: &str| {
            serde_json::json!({ "ServerURL": host, "Username": ADMIN, "Secret": secret }).to_string()
        };
        let (done, said) = home.helper("store", &login("wrong")).await;
        assert!(!done && said.contains("the password is wrong"), "{said}");
        assert_eq!(home.helper("store", &login(PASSWORD)).await, (true, String::new()));
        let secret = async |server: &str| {
            let (done, said) = home.helper("get", server).await;
            assert!(done, "{said}");
            let found: serde_json::Value = serde_json::from_str(&said).unwrap();
            assert_eq!((&found["Username"], &found["ServerURL"]), (&"<token>".into(), &server.into()));
            found["Secret"].as_str().unwrap().to_owned()
        };
        let first = secret(&host).await;
        assert_eq!(secret(&url).await, first);
        let identity = async |token: &str| {
            let call = deployment.anonymous().call(reqwest::Method::GET, "/api/v1/identity").bearer(token);
            call.send().await.unwrap().status
        };
        assert_eq!(identity(&first).await, 200);
        // Another login ends the one before, and so does the end.
        assert!(home.helper("store", &login(PASSWORD)).await.0);
        let second = secret(&host).await;
        assert_eq!((identity(&first).await, identity(&second).await), (401, 200));
        assert_eq!(home.helper("list", "").await.1, format!(r#"{{"{host}":"<token>"}}"#));
        // A token is taken as it is.
        let token = serde_json::json!({ "ServerURL": host, "Username": "<token>", "Secret": second });
        let other = Home::new();
        assert!(other.helper("store", &token.to_string()).await.0);
        assert!(other.helper("erase", &host).await.0);
        assert_eq!(identity(&second).await, 401);
        assert!(home.helper("erase", &host).await.0 && home.helper("erase", &host).await.0);
        assert!(!home.helper("get", &host).await.0);
        assert_eq!(home.helper("list", "").await.1, "{}");
    }

    async fn what_the_api_takes_and_tells_flags_and_tables_do(deployment: &'static Deployment) {
        let home = Home::new();
        home.login(deployment).await;
        let robot = ["robot", "create", "--name", "flagged", "--expires-at", "2099-01-31T00:00:00Z", "-o", "json"];
        assert!(home.said(&robot).await.contains("2099-01-31T00:00:00"));
        let robot = home.said(&["robot", "update", "flagged", "--no-expires-at", "-o", "json"]).await;
        let robot: serde_json::Value = serde_json::from_str(&robot).unwrap();
        assert!(robot["expires_at"].is_null(), "{robot}");
        home.said(&["group", "create", "--name", "tabled"]).await;
        home.said(&["group", "add-member", "tabled", "robot", "flagged"]).await;
        let members = home.said(&["group", "list-members", "tabled"]).await;
        assert!(members.starts_with("KIND ") && members.contains("\nrobot  flagged  01"), "{members}");
        let role = ["role", "create", "--name", "listed", "--scopes", "namespace,repository"];
        home.said(&[&role[..], &["--permission", "artifact:pull", "--permission", "repository:read"]].concat()).await;
        let role = home.said(&["role", "get", "listed"]).await;
        assert!(role.contains("scopes       namespace,repository\n"), "{role}");
        let collection = home.said(&["garbage-collection", "get"]).await;
        assert!(collection.contains("queues\n  NAME "), "{collection}");
        assert_eq!(home.said(&["instance", "get-usage", "-o", "name"]).await, "");
        // Refusals speak of flags.
        let stale = ["robot", "update", "flagged", "--disabled", "--if-match", "1"];
        let (code, text) = refusal(&home.run(&stale, "").await);
        assert!(code == 1 && text.contains("--if-match") && !text.contains("ETag"), "{text}");
        let (code, text) = refusal(&home.run(&["user", "set-password", "absent", "--body", "-"], "{}").await);
        assert!(code == 1 && text.contains("\n  see --password-file\n"), "{text}");
        let (code, text) = refusal(&home.run(&["tag", "get", "team/app", ""], "").await);
        assert!(code == 2 && text.contains("TAG is empty"), "{text}");
    }

    async fn answers_are_tables_json_yaml_or_names(deployment: &'static Deployment) {
        let home = Home::new();
        home.login(deployment).await;
        let name = format!("shown-{}", ulid::Ulid::from(home.0.path().as_os_str().len() as u128));
        let name = name.to_lowercase();
        home.said(&["namespace", "create", "--name", &name, "--description", "no: it's\nnot"]).await;
        let json = home.said(&["namespace", "get", &name, "-o", "json"]).await;
        let yaml = home.said(&["namespace", "get", &name, "-o", "yaml"]).await;
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["description"], "no: it's\nnot");
        assert!(yaml.contains(&format!("name: {name}\n")) && yaml.contains("create_on_push: true"), "{yaml}");
        assert_eq!(home.said(&["namespace", "get", &name, "-o", "name"]).await.trim(), name);
        assert!(home.said(&["namespace", "get", &name]).await.contains("no: it's not"));
        // Long work says how far it is, at once and later.
        let output = home.run(&["namespace", "delete", &name, "--wait", "-o", "json"], "").await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains("done"), "{said}");
        let task: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&task["state"], &task["name"]), (&"done".into(), &name.into()));
        let watched = home.said(&["task", "get", task["id"].as_str().unwrap(), "--watch", "-o", "yaml"]).await;
        assert!(watched.contains("state: done"), "{watched}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_are_kept_in_a_keyring_when_one_says_so() {
    let deployment = Deployment::builder(Setting::EMBEDDED).start().await.unwrap();
    let home = Home::new();
    let folder = home.0.path();
    std::fs::create_dir(folder.join("bin")).unwrap();
    let keyring = std::env::var_os("BERTH_KEYRING").expect("BERTH_KEYRING names a keyring; use tests/run");
    std::os::unix::fs::symlink(keyring, folder.join("bin/docker-credential-pass")).unwrap();
    std::fs::create_dir(folder.join("gnupg")).unwrap();
    std::fs::set_permissions(folder.join("gnupg"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let program = async |name: &str, arguments: &[&str]| {
        let output = home.run_program(Path::new(name), arguments, "").await;
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    };
    program("gpg", &["--batch", "--quiet", "--passphrase", "", "--quick-gen-key", "berth"]).await;
    program("pass", &["init", "berth"]).await;

    home.login(&deployment).await;
    let tokens = home.config().join("tokens.json");
    let kept = std::fs::read_to_string(&tokens).unwrap();
    assert!(kept.contains("berth_refresh_"));
    // What is there moves, there and back.
    home.said(&["context", "keyring", "pass"]).await;
    assert!(!std::fs::read_to_string(&tokens).unwrap().contains("berth_refresh_"));
    assert!(home.said(&["whoami"]).await.contains(ADMIN));
    home.said(&["logout"]).await;
    home.said(&["logout"]).await;
    assert_eq!(home.run(&["whoami"], "").await.status.code(), Some(1));
    home.login(&deployment).await;
    let (done, said) = home.helper("get", &deployment.address().to_string()).await;
    assert!(done && said.contains("berth_refresh_"), "{said}");
    home.said(&["context", "keyring", "file"]).await;
    assert!(std::fs::read_to_string(&tokens).unwrap().contains("berth_refresh_"));
    assert!(home.said(&["whoami"]).await.contains(ADMIN));
    for (program, words) in [("berth", "another program"), ("absent", "docker-credential-absent")] {
        let (code, text) = refusal(&home.run(&["context", "keyring", program], "").await);
        assert!(code == 2 && text.contains(words), "{text}");
    }
    assert!(home.said(&["whoami"]).await.contains(ADMIN));
    program("gpgconf", &["--kill", "gpg-agent"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_terminal_long_work_has_a_bar() {
    let deployment = Deployment::builder(Setting::EMBEDDED).start().await.unwrap();
    let home = Home::new();
    home.login(&deployment).await;
    home.said(&["namespace", "create", "--name", "barred"]).await;
    home.said(&["repository", "create", "--path", "barred/app"]).await;
    let command = format!("{} namespace delete barred --wait -o name", program().display());
    // `script` runs it on a terminal of its own.
    let output = home.run_program(Path::new("script"), &["-qec", &command, "/dev/null"], "").await;
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{seen}");
    assert!(seen.contains("namespace.delete barred [====") && seen.contains("] 1 of 1"), "{seen}");
    // It is gone when the answer comes.
    let (_, rest) = seen.rsplit_once("\u{1b}[2K").unwrap();
    assert!(rest.trim_end().parse::<ulid::Ulid>().is_ok(), "{seen:?}");
}

#[test]
fn whoever_reads_no_more_makes_no_failure() {
    let home = Home::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = std::process::Command::new(program())
        .arg("reference")
        .env_clear()
        .env("BERTH_CONFIG", home.config())
        .stdout(writer)
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert_eq!(refusal(&output), (0, String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reference_is_fresh() {
    let made = Home::new().said(&["reference"]).await;
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/berthctl-reference.md");
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("### berthctl robot create"));
    assert!(made == page, "run: berthctl reference > docs/berthctl-reference.md");
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
    let out = run_documented("berthctl.md", "berthctl ", |bash| {
        bash.current_dir(folder)
            .env("PATH", path)
            .env("HOME", folder)
            .env("DOCKER_CONFIG", folder.join("docker"))
            .env("BERTH_CONFIG", home.config())
            .env("BERTH", deployment.url())
            .env("PASSWORD", PASSWORD);
    })
    .await;
    // The push is in the audit, by the robot, and only the tag that stayed is there.
    assert!(out.contains("artifact.pushed") && out.contains("robot:"), "{out}");
    assert_eq!(deployment.client().repository("team/app").tags().await.unwrap(), ["v1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_on_the_whole_deployment_is_waited_for() {
    let deployment = Deployment::builder(Setting::EMBEDDED).collecting_at_once().start().await.unwrap();
    let home = Home::new();
    home.login(&deployment).await;
    let mut tasks = Vec::new();
    for (noun, kind) in [("garbage-collection", "garbage_collection.run"), ("scrub", "scrub.run")] {
        let output = home.run(&[noun, "run", "--wait", "-o", "json"], "").await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.contains("done"), "{said}");
        let task: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&task["state"], &task["kind"]), (&"done".into(), &kind.into()));
        tasks.push(task["id"].as_str().unwrap().to_owned());
    }
    let listed = home.said(&["deployment-task", "list", "-o", "name"]).await;
    assert_eq!(listed.lines().rev().collect::<Vec<_>>(), tasks, "the newest first");
    let watched = home.said(&["deployment-task", "get", &tasks[0], "--watch", "-o", "yaml"]).await;
    assert!(watched.contains("state: done"), "{watched}");
    let wrong = home.run(&["deployment-task", "get", "absent", "--watch"], "").await;
    assert!(!wrong.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn shells_complete_all_of_it() {
    for shell in ["bash", "zsh", "fish"] {
        let script = Home::new().said(&["completion", shell]).await;
        assert!(script.contains("identity-provider") && script.contains("immutable-tags"), "{shell}");
    }
}
