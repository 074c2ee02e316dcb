//! What the pages of documentation say to run.

use std::{path::Path, process::Stdio};

use tokio::process::Command;

/// A page below `docs`.
fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)).unwrap()
}

/// What stands in a page between ```` ```language ```` and ```` ``` ````, in order.
pub fn documented_blocks(name: &str, language: &str) -> Vec<String> {
    let (page, fence) = (page(name), format!("```{language}\n"));
    page.split(&fence).skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

/// Runs the commands of a page, its blocks of `sh` in order, where and with what `prepare` says, and ends with all of them or
/// at the first that fails. `word` is one that the page is full of. What they printed.
pub async fn run_documented(name: &str, word: &str, prepare: impl FnOnce(&mut Command)) -> String {
    let script = format!("set -euo pipefail\n{}", documented_blocks(name, "sh").concat());
    assert!(script.matches(word).count() > 10, "{script}");
    let mut bash = Command::new("bash");
    bash.args(["-c", &script]).stdin(Stdio::null()).kill_on_drop(true);
    prepare(&mut bash);
    let output = bash.output().await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    out.into_owned()
}
