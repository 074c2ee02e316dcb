//! `docker-credential-berth`: logins of berthctl for docker, helm and whatever else speaks docker's credential helper
//! protocol.

fn main() -> std::process::ExitCode {
    berthctl::credential_helper()
}
