//! Writing for a person. A closed standard output is not an error worth dying of.

use std::io::{IsTerminal, Write};

/// Writes a line to standard output.
pub(crate) fn line(text: &str) {
    let _closed = writeln!(std::io::stdout().lock(), "{text}");
}

/// Writes an error to standard error.
pub(crate) fn error(text: &str) {
    let _closed = writeln!(std::io::stderr().lock(), "berth: {text}");
}

/// Whether a person reads standard output.
pub(crate) fn is_interactive() -> bool {
    std::io::stdout().is_terminal()
}
