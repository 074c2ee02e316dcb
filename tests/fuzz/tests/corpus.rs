//! Every input that is kept, through its target: the seeds, and what was found once.
#![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

use std::path::Path;

#[test]
fn what_is_kept_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in berth_fuzz::TARGETS {
        let files: Vec<_> =
            std::fs::read_dir(corpus.join(name)).unwrap().map(|file| file.unwrap().path()).collect();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            let bytes = std::fs::read(&file).unwrap();
            target(&bytes);
            // Cut anywhere, and with any byte changed, it holds as well.
            for at in 0..bytes.len() {
                target(&bytes[..at]);
                let mut changed = bytes.clone();
                changed[at] ^= 1 << (at % 8);
                target(&changed);
            }
        }
    }
}
