//! What a repository is found by: its path, and what is left of the path after each `/ - . _`. The rows are there as long
//! as the repository is listed, and written in the transactions that make it so, show it to others, or end it.

use berth_database::{TextList, Transaction, args};

use crate::{error::Result, repository::visibility, store::list_statements as sql};

const SEPARATORS: [char; 4] = ['/', '-', '.', '_'];

/// The terms of a path, each a beginning of a part up to the path's end.
fn terms(path: &str) -> Vec<String> {
    let mut before = '/';
    let mut found = Vec::new();
    for (place, letter) in path.char_indices() {
        if SEPARATORS.contains(&before) && !SEPARATORS.contains(&letter) {
            found.push(path[place..].to_owned());
        }
        before = letter;
    }
    found
}

/// What somebody looks for, as terms from the first on and before the second. `None`: no repository has such a name.
pub(crate) fn range(search: &str) -> Option<(String, String)> {
    let search = search.trim().to_lowercase();
    let first = search.trim_start_matches(SEPARATORS);
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || SEPARATORS.contains(&letter);
    if first.is_empty() || !first.chars().all(is_letter) {
        return None;
    }
    Some((first.to_owned(), after_all(first)?))
}

/// The least text that comes after everything that begins with an ASCII text.
pub(crate) fn after_all(prefix: &str) -> Option<String> {
    let mut bytes = prefix.as_bytes().to_vec();
    *bytes.last_mut()? += 1;
    String::from_utf8(bytes).ok()
}

/// A repository is listed from now on.
pub(crate) async fn add(tx: &mut Transaction, repository: &str, path: &str) -> Result<()> {
    tx.execute(&sql::ADD_TERMS, args![repository, TextList(terms(path))]).await?;
    Ok(())
}

/// It is public from now on, or no longer. Its row is locked.
pub(crate) async fn show(tx: &mut Transaction, repository: &str, public: bool) -> Result<()> {
    tx.execute(&sql::SHOW_TERMS, args![repository, visibility(public)]).await?;
    Ok(())
}

/// It is not listed any more.
pub(crate) async fn drop(tx: &mut Transaction, repository: &str) -> Result<()> {
    tx.execute(&sql::DROP_TERMS, args![repository]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_by_its_parts() {
        assert_eq!(terms("team/app-server"), ["team/app-server", "app-server", "server"]);
        assert_eq!(terms("a/b__c--d.e"), ["a/b__c--d.e", "b__c--d.e", "c--d.e", "d.e", "e"]);
    }

    #[test]
    fn a_search_is_a_range_of_terms() {
        assert_eq!(range("App-"), Some(("app-".to_owned(), "app.".to_owned())));
        assert_eq!(range(" /team "), Some(("team".to_owned(), "tean".to_owned())));
        for nothing in ["", "-", "a b", "\u{e9}", "a\0", "%"] {
            assert_eq!(range(nothing), None, "{nothing:?}");
        }
    }
}
