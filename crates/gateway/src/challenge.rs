//! The challenge of a 401 (RFC 6750, and distribution's token documentation). What goes into it has been parsed: none of
//! it can hold a quotation mark.

use std::fmt::Write as _;

use berth_model::Scope;

/// Where to get which token, and why the one that came does not do.
pub(crate) fn bearer(base_url: &str, service: &str, scope: Option<&Scope>, error: Option<&str>) -> String {
    let mut text = format!("Bearer realm=\"{base_url}/token\",service=\"{service}\"");
    // Writing to a text does not fail.
    if let Some(scope) = scope {
        let _always = write!(text, ",scope=\"{scope}\"");
    }
    if let Some(error) = error {
        let _always = write!(text, ",error=\"{error}\"");
    }
    text
}
