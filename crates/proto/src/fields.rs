//! Reading message fields into types. What doesn't parse is the caller's mistake: INVALID_ARGUMENT, naming the field.

use std::{fmt::Display, str::FromStr};

use berth_oci::{ErrorCode, Problem};

/// Parses a field.
pub fn parse<T>(field: &'static str, text: &str) -> Result<T, Problem>
where
    T: FromStr,
    T::Err: Display,
{
    text.parse().map_err(|error| Problem::new(ErrorCode::RequestInvalid, format!("field {field}: {error}")))
}

/// Parses a field that may be empty, which means absent.
pub fn optional<T>(field: &'static str, text: &str) -> Result<Option<T>, Problem>
where
    T: FromStr,
    T::Err: Display,
{
    if text.is_empty() { Ok(None) } else { parse(field, text).map(Some) }
}

/// A field that has to be there.
pub fn require<T>(field: &'static str, value: Option<T>) -> Result<T, Problem> {
    value.ok_or_else(|| Problem::new(ErrorCode::RequestInvalid, format!("field {field} is missing")))
}
