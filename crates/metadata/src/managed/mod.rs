//! Namespaces and repositories by hand.

pub(crate) mod namespace;
pub(crate) mod repository;

use berth_oci::ErrorCode;

pub(crate) use self::{
    namespace::{Namespace, NamespaceChange},
    repository::{ManagedRepository, RepositoryChange, remove},
};
use crate::error::{Error, Result};

fn check_text(field: &str, text: Option<&String>, most: usize) -> Result<()> {
    // A summary is a line.
    let (kept, words) = match field {
        "summary" => ("", "no line ends or other control characters"),
        _ => ("\n\t\r", "no control characters but line ends and tabs"),
    };
    let fits =
        |text: &String| text.len() <= most && !text.chars().any(|c| c.is_control() && !kept.contains(c));
    if text.is_none_or(fits) {
        return Ok(());
    }
    let message = format!("the {field} has at most {most} bytes, and {words}");
    Err(Error::new(ErrorCode::RequestInvalid, message))
}

/// The longest summary, and the longest description, in bytes.
const SUMMARY: usize = 200;
const DESCRIPTION: usize = 64 * 1024;
