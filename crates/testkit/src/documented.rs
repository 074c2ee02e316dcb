//! What the pages of documentation say to run.

use std::path::Path;

/// A page below `docs`.
fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)).unwrap()
}

/// What stands in a page between ```` ```language ```` and ```` ``` ````, in order.
pub fn documented_blocks(name: &str, language: &str) -> Vec<String> {
    let (page, fence) = (page(name), format!("```{language}\n"));
    page.split(&fence).skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

/// The commands of a page, its blocks of `sh` in order, as a script for bash that ends at the first that fails.
pub fn documented_commands(name: &str) -> String {
    format!("set -euo pipefail\n{}", documented_blocks(name, "sh").concat())
}
