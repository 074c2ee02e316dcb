//! The administrator's password: where it comes from, and where a generated one is kept.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use berth_instance_manager::PasswordKeeper;
use secrecy::{ExposeSecret, SecretString};

/// The fewest characters that a given password may have.
const MIN_LENGTH: usize = 8;

/// The password that the environment gives, if any.
pub(crate) fn given() -> Result<Option<SecretString>> {
    let password = match (std::env::var("BERTH_ADMIN_PASSWORD"), std::env::var("BERTH_ADMIN_PASSWORD_FILE")) {
        (Ok(_), Ok(_)) => bail!("set BERTH_ADMIN_PASSWORD or BERTH_ADMIN_PASSWORD_FILE, not both"),
        (Ok(password), _) => password,
        (_, Ok(file)) => {
            let text =
                fs::read_to_string(&file).with_context(|| format!("can't read the password file {file}"))?;
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
pub(crate) fn file_in(data: &Path) -> PathBuf {
    data.join("admin-password")
}

/// Keeps a generated password in a file that only the owner may read.
#[derive(Debug)]
pub(crate) struct Keeper {
    folder: PathBuf,
}

impl Keeper {
    /// Keeps in the data folder.
    pub(crate) fn new(data: &Path) -> Self {
        Self { folder: data.to_owned() }
    }

    fn write(&self, password: &SecretString) -> io::Result<()> {
        // Written whole and moved into place: an older file may be open to others, or be read right now.
        let draft = self.folder.join("admin-password.new");
        gone_or(fs::remove_file(&draft))?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(password.expose_secret().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&draft, file_in(&self.folder))?;
        File::open(&self.folder)?.sync_all()
    }
}

impl PasswordKeeper for Keeper {
    fn keep(&self, password: &SecretString) -> io::Result<()> {
        self.write(password).map_err(|error| named(&file_in(&self.folder), &error))
    }

    fn discard(&self) -> io::Result<()> {
        let path = file_in(&self.folder);
        let discarded = || match fs::remove_file(&path) {
            // A start that was cut short may have removed it without the sync.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            // Were it to come back after a power loss, it would name a password that is none.
            _ => File::open(&self.folder)?.sync_all(),
        };
        discarded().map_err(|error| named(&path, &error))
    }
}

fn gone_or(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
