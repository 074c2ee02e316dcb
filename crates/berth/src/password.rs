//! The administrator's password: where it comes from, and where a generated one is kept.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use secrecy::{ExposeSecret, SecretString};

/// The fewest characters that a given password may have.
const MIN_LENGTH: usize = 8;

/// The password that the environment gives, if any.
pub(crate) fn given() -> Result<Option<SecretString>> {
    let password = match (std::env::var("BERTH_ADMIN_PASSWORD"), std::env::var("BERTH_ADMIN_PASSWORD_FILE")) {
        (Ok(_), Ok(_)) => bail!("set BERTH_ADMIN_PASSWORD or BERTH_ADMIN_PASSWORD_FILE, not both"),
        (Ok(password), _) => password,
        (_, Ok(file)) => {
            let text = std::fs::read_to_string(&file)
                .with_context(|| format!("can't read the password file {file}"))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        _ => return Ok(None),
    };
    if password.chars().count() < MIN_LENGTH {
        bail!("the administrator's password needs at least {MIN_LENGTH} characters");
    }
    Ok(Some(password.into()))
}

/// Where a generated password is kept.
pub(crate) fn file(data: &Path) -> PathBuf {
    data.join("admin-password")
}

/// Keeps a generated password in a file that only the owner may read.
pub(crate) fn keep(data: &Path, password: &SecretString) -> Result<()> {
    let path = file(data);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(password.expose_secret().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    };
    write().with_context(|| format!("can't write {}", path.display()))
}
