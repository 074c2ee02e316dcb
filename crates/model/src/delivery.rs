//! How bytes reach clients.

use std::str::FromStr;

/// How the bytes of an instance's blobs reach clients.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum BlobDelivery {
    /// Through Berth.
    #[default]
    Stream,
    /// From the store itself, by a URL that opens one object for a short time, where the store has such.
    Redirect,
}

impl BlobDelivery {
    /// The word in SQL, commands and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Redirect => "redirect",
        }
    }
}

impl FromStr for BlobDelivery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "stream" => Ok(Self::Stream),
            "redirect" => Ok(Self::Redirect),
            _ => Err(format!("no blob delivery named {text:?}; it is stream or redirect")),
        }
    }
}
