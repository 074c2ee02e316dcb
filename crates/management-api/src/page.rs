//! Pages by key: how many, and after what. A page token is bound to the list that gave it out.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use berth_oci::ErrorCode;
use sha2::{Digest as _, Sha256};

use crate::problem::{Refusal, Result};

/// The most items of a page, and how many there are unless it is said.
const MOST: u32 = 100;
const USUAL: u32 = 50;

/// Which page of a list is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Paging {
    pub(crate) size: u32,
    /// After this key, in the words of the service that lists; empty: the first page.
    pub(crate) after: String,
    /// Of the list: its path and its filters.
    of: [u8; 8],
}

fn wrong(message: &str) -> Box<Refusal> {
    Refusal::new(ErrorCode::PaginationInvalid, message)
}

impl Paging {
    /// Reads `page_size` and `page_token` for the list at `path` with `filters`.
    pub(crate) fn read(
        path: &str,
        filters: &[(String, String)],
        size: Option<&str>,
        token: Option<&str>,
    ) -> Result<Self> {
        let size = match size.map(str::parse::<u32>) {
            None => USUAL,
            Some(Ok(size @ 1..=MOST)) => size,
            Some(_) => return Err(wrong("page_size is a number from 1 to 100")),
        };
        let mut hash = Sha256::new();
        hash.update(path.as_bytes());
        for (name, value) in filters {
            for part in [name, value] {
                hash.update([0]);
                hash.update(part.as_bytes());
            }
        }
        let mut of = [0; 8];
        of.copy_from_slice(&hash.finalize()[..8]);
        let mut paging = Self { size, after: String::new(), of };
        if let Some(token) = token.filter(|token| !token.is_empty()) {
            let bad = || wrong("page_token is none that this list has given out; begin without one");
            let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| bad())?;
            let after = bytes.strip_prefix(&paging.of).ok_or_else(bad)?;
            paging.after = String::from_utf8(after.to_vec()).map_err(|_| bad())?;
        }
        Ok(paging)
    }

    /// The token of the page after the item with this key.
    pub(crate) fn token(&self, after: &str) -> String {
        let mut bytes = self.of.to_vec();
        bytes.extend_from_slice(after.as_bytes());
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// Cuts a list that was asked for with one item more than the page has, and says how to go on.
    pub(crate) fn cut<T>(&self, items: &mut Vec<T>, key: impl Fn(&T) -> &str) -> Option<String> {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        if items.len() <= size {
            return None;
        }
        items.truncate(size);
        items.last().map(|last| self.token(key(last)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_opens_only_the_list_that_gave_it_out() {
        let filters = vec![("search".to_owned(), "a".to_owned())];
        let first = Paging::read("/x", &filters, Some("2"), None).unwrap();
        let token = first.token("key");
        assert_eq!(Paging::read("/x", &filters, None, Some(&token)).unwrap().after, "key");
        for (path, filters) in [("/y", filters.as_slice()), ("/x", &[])] {
            assert!(Paging::read(path, filters, None, Some(&token)).is_err());
        }
        for token in ["x", "!", "AAAA", &token[1..]] {
            let refused = Paging::read("/x", &filters, None, Some(token)).unwrap_err();
            assert_eq!(refused.problem.code, ErrorCode::PaginationInvalid, "{token}");
        }
        for size in ["0", "101", "-1", "4294967296", "x", ""] {
            assert!(Paging::read("/x", &[], Some(size), None).is_err(), "{size}");
        }
    }

    #[test]
    fn a_page_that_is_full_and_the_last_has_no_next() {
        let paging = Paging::read("/x", &[], Some("2"), None).unwrap();
        let mut items = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(paging.cut(&mut items, |item| item), None);
        items.push("c".to_owned());
        assert_eq!(paging.cut(&mut items, |item| item), Some(paging.token("b")));
        assert_eq!(items, ["a", "b"]);
    }
}
