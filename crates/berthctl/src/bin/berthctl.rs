//! `berthctl`: the REST API of Berth for a terminal.

fn main() -> std::process::ExitCode {
    berthctl::terminal()
}
