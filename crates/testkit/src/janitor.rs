//! Cleans up when the test process is gone, however it ended: deployments that tests share live in statics, which are
//! never dropped. A shell of ours holds a list of our own children and folders and works it off at the end of its input.

use std::{
    io::Write,
    path::Path,
    process::{ChildStdin, Command, Stdio},
    sync::{Mutex, OnceLock},
};

const SCRIPT: &str = r#"
# A signal to the whole group, such as Ctrl-C, is meant for the tests: this is what cleans up after them.
trap "" INT TERM HUP
pids=" "; folders=()
while read -r word value; do
  case "$word" in
    started) pids="$pids$value " ;;
    ended) pids="${pids/ $value / }" ;;
    folder) folders+=("$value") ;;
  esac
done
for pid in $pids; do kill -QUIT "$pid" 2>/dev/null; done
sleep 1
for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
for folder in "${folders[@]}"; do rm -rf -- "$folder"; done
"#;

fn tell(word: &str, value: &str) {
    static SHELL: OnceLock<Mutex<ChildStdin>> = OnceLock::new();
    let shell = SHELL.get_or_init(|| {
        #[expect(clippy::zombie_processes, reason = "it outlives this process, which is what it is for")]
        let mut shell = Command::new("bash")
            .arg("-c")
            .arg(SCRIPT)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("bash is needed to clean up after tests");
        Mutex::new(shell.stdin.take().unwrap())
    });
    writeln!(shell.lock().unwrap(), "{word} {value}").unwrap();
}

/// A child of ours is running.
pub(crate) fn started(pid: u32) {
    tell("started", &pid.to_string());
}

/// It has ended and was waited for: its number may belong to somebody else from now on.
pub(crate) fn ended(pid: u32) {
    tell("ended", &pid.to_string());
}

/// A folder of ours, to be removed at the end.
pub(crate) fn folder(path: &Path) {
    tell("folder", &path.display().to_string());
}

/// A new folder that is removed at the end.
pub(crate) fn new_folder(prefix: &str) -> std::path::PathBuf {
    let path = tempfile::Builder::new().prefix(prefix).tempdir().unwrap().keep();
    folder(&path);
    path
}
