//! Small values of requests and answers.

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment, as RFC 3339 writes it, in UTC and to the microsecond.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Moment(pub(crate) i64);

impl Moment {
    /// A moment that may be none: 0.
    pub(crate) fn some(micros: i64) -> Option<Self> {
        (micros != 0).then_some(Self(micros))
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no moment; write 2026-01-31T12:00:00Z");
        let moment = humantime::parse_rfc3339(text).map_err(|_| wrong())?;
        let since = moment.duration_since(std::time::UNIX_EPOCH).map_err(|_| wrong())?;
        i64::try_from(since.as_micros()).map(Self).map_err(|_| wrong())
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let micros = u64::try_from(self.0).unwrap_or_default();
        let moment = std::time::UNIX_EPOCH + std::time::Duration::from_micros(micros);
        serializer.collect_str(&humantime::format_rfc3339_micros(moment))
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl utoipa::PartialSchema for Moment {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .format(Some(utoipa::openapi::SchemaFormat::KnownFormat(utoipa::openapi::KnownFormat::DateTime)))
            .into()
    }
}

impl utoipa::ToSchema for Moment {}

/// A secret in a request. It is nowhere shown or logged.
#[derive(Clone, Debug)]
pub(crate) struct Secret(SecretString);

impl Secret {
    /// The text, for the message to whoever judges it.
    pub(crate) fn expose(&self) -> String {
        self.0.expose_secret().to_owned()
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(SecretString::from(text)))
    }
}

impl utoipa::PartialSchema for Secret {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .format(Some(utoipa::openapi::SchemaFormat::KnownFormat(utoipa::openapi::KnownFormat::Password)))
            .into()
    }
}

impl utoipa::ToSchema for Secret {}

/// For a field of a PATCH whose absence (it stays) and whose null (it is taken away) differ.
pub(crate) fn given<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Change {
        #[serde(default, deserialize_with = "given")]
        text: Option<Option<String>>,
        #[serde(default, deserialize_with = "given")]
        at: Option<Option<Moment>>,
    }

    #[test]
    fn absent_and_null_are_told_apart() {
        let read = |text| serde_json::from_str::<Change>(text).unwrap();
        assert_eq!(read("{}"), Change { text: None, at: None });
        assert_eq!(read(r#"{"text":null}"#), Change { text: Some(None), at: None });
        let at = Some(Some(Moment(1_000_001)));
        assert_eq!(read(r#"{"at":"1970-01-01T00:00:01.000001Z"}"#), Change { text: None, at });
        assert_eq!(serde_json::to_string(&Moment(1_000_001)).unwrap(), "\"1970-01-01T00:00:01.000001Z\"");
    }
}
