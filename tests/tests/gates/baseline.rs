//! The figures that were accepted, and what is said of others.

use std::{fmt::Write as _, path::PathBuf};

use crate::{figures::Figures, operations::Operation};

/// How much more is the same, and how much less hides the way back: in hundredths, for what writes and for what reads.
/// Statements and syncs are exact. What else is counted depends a little on how the kernel cuts what it hands over, and for
/// what writes on where in a table its rows come.
const fn width(writes: bool) -> (u64, u64) {
    if writes { (8, 15) } else { (3, 10) }
}
/// A page of SQLite's log: a tree that grew there may have one more to write.
const PAGE: u64 = 4096 + 24;

const HEAD: &str = "# What one operation costs in one process on SQLite, everything warm: tests/tests/gates compares.\n\
    # Written by: BERTH_GATES=accept cargo test -p berth-tests --test gates\n";

/// `baseline.toml`.
pub(crate) struct Baseline {
    accepted: toml::Table,
}

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gates/baseline.toml"))
}

impl Baseline {
    pub(crate) fn read() -> Self {
        Self { accepted: std::fs::read_to_string(path()).unwrap_or_default().parse().unwrap() }
    }

    fn figure(&self, operation: Operation, name: &str) -> Option<u64> {
        u64::try_from(self.accepted.get(operation.name())?.get(name)?.as_integer()?).ok()
    }

    /// Ends the test when a figure is not what was accepted, or writes them all, when that is asked for.
    pub(crate) fn judge(&self, measured: &[(Operation, Figures)]) {
        if std::env::var_os("BERTH_GATES").is_some_and(|word| word == "accept") {
            return write(measured);
        }
        let mut complaints = Vec::new();
        for (operation, figures) in measured {
            for (name, figure) in figures.named() {
                let accepted = self.figure(*operation, name);
                complaints.extend(
                    complaint(name, figure, accepted, figures.syncs > 0)
                        .map(|text| format!("{}: {text}", operation.name())),
                );
            }
        }
        assert!(
            complaints.is_empty(),
            "{}\n\nIf that is meant: BERTH_GATES=accept cargo test -p berth-tests --test gates, and say why in the \
             commit.",
            complaints.join("\n")
        );
    }
}

/// What there is to say of a figure.
fn complaint(name: &str, figure: u64, accepted: Option<u64>, writes: bool) -> Option<String> {
    let Some(accepted) = accepted else { return Some(format!("{name}: {figure}, and there is no baseline")) };
    let (more, less) = width(writes);
    let (more, less) = match name {
        "statements" | "syncs" => (0, 0),
        "copied_bytes" if writes => (accepted * more / 100 + PAGE, accepted * less / 100 + PAGE),
        _ => (accepted * more / 100, accepted * less / 100),
    };
    if figure > accepted + more {
        return Some(format!("{name}: {figure}, above the baseline of {accepted}"));
    }
    if figure + less < accepted {
        return Some(format!(
            "{name}: {figure}, so far below the baseline of {accepted} that it has to be lowered"
        ));
    }
    None
}

fn write(measured: &[(Operation, Figures)]) {
    let mut text = HEAD.to_owned();
    for (operation, figures) in measured {
        write!(text, "\n[{}]\n", operation.name()).unwrap();
        for (name, figure) in figures.named() {
            writeln!(text, "{name} = {figure}").unwrap();
        }
    }
    std::fs::write(path(), text).unwrap();
}

#[test]
fn a_figure_is_judged_by_both_sides_of_its_baseline() {
    let read = |name, figure, accepted| complaint(name, figure, accepted, false);
    assert_eq!(read("statements", 0, Some(0)), None);
    assert!(read("statements", 1, Some(0)).unwrap().contains("1, above the baseline of 0"));
    assert!(read("syncs", 2, Some(3)).unwrap().contains("2, so far below the baseline of 3"));
    assert_eq!(read("allocations", 103, Some(100)), None);
    assert!(read("allocations", 104, Some(100)).unwrap().contains("above"));
    assert_eq!(read("copied_bytes", 90, Some(100)), None);
    assert!(read("copied_bytes", 89, Some(100)).unwrap().contains("lowered"));
    assert!(read("copied_bytes", 89, None).unwrap().contains("no baseline"));
    assert_eq!(complaint("allocations", 108, Some(100), true), None);
    assert!(complaint("allocations", 109, Some(100), true).unwrap().contains("above"));
    assert_eq!(complaint("copied_bytes", 10_800 + PAGE, Some(10_000), true), None);
    assert!(complaint("copied_bytes", 10_801 + PAGE, Some(10_000), true).unwrap().contains("above"));
    assert!(complaint("copied_bytes", 8_499 - PAGE, Some(10_000), true).unwrap().contains("lowered"));
}
