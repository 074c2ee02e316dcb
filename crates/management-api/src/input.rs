//! What a call brings: nothing, a query, the filters of a list, or JSON. What is not known is refused.

use axum::extract::Query as Parsed;
use bytes::Bytes;
use http::{StatusCode, Uri};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema, openapi::path::ParameterIn};

use crate::{
    answer::Schemas,
    page::Paging,
    problem::{Refusal, Result, invalid},
    strict,
};

/// What was sent, still unread.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) path: String,
    pub(crate) query: Vec<(String, String)>,
    pub(crate) content_type: Option<String>,
    pub(crate) body: Bytes,
}

/// An input in the document.
#[derive(Default, Debug)]
pub(crate) struct Described {
    pub(crate) parameters: Vec<Value>,
    /// The schema of the body; none: there is none.
    pub(crate) body: Option<Value>,
}

/// What a handler takes.
pub(crate) trait Input: Sized + Send + 'static {
    fn describe(schemas: &mut Schemas) -> Described;
    fn read(sent: Sent) -> Result<Self>;
}

fn query<T: DeserializeOwned>(pairs: &[(String, String)]) -> Result<T> {
    let text = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
    let uri: Uri = format!("/?{text}").parse().map_err(|_| invalid("the query can't be read"))?;
    let parsed = Parsed::try_from_uri(&uri).map_err(|error| {
        let text = error.body_text();
        invalid(format!(
            "the query: {}",
            text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text)
        ))
    })?;
    Ok(parsed.0)
}

fn parameters<T: IntoParams>() -> Vec<Value> {
    let found = T::into_params(|| Some(ParameterIn::Query));
    found.into_iter().map(|parameter| serde_json::to_value(parameter).unwrap_or_default()).collect()
}

/// Nothing but the path.
#[derive(Debug)]
pub(crate) struct Nothing;

fn no_body(sent: &Sent) -> Result<()> {
    if sent.body.is_empty() { Ok(()) } else { Err(invalid("this call has no body")) }
}

impl Input for Nothing {
    fn describe(_: &mut Schemas) -> Described {
        Described::default()
    }

    fn read(sent: Sent) -> Result<Self> {
        no_body(&sent)?;
        match sent.query.first() {
            None => Ok(Self),
            Some((name, _)) => Err(invalid(format!("the query: there is no {name} here"))),
        }
    }
}

/// A query.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned + IntoParams + Send + 'static> Input for Query<T> {
    fn describe(_: &mut Schemas) -> Described {
        Described { parameters: parameters::<T>(), body: None }
    }

    fn read(sent: Sent) -> Result<Self> {
        no_body(&sent)?;
        query(&sent.query).map(Self)
    }
}

/// A page of a list, and its filters.
#[derive(Debug)]
pub(crate) struct List<T> {
    pub(crate) paging: Paging,
    pub(crate) filters: T,
}

/// A list without filters.
#[derive(Debug, serde::Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoFilter {}

impl<T: DeserializeOwned + IntoParams + Send + 'static> Input for List<T> {
    fn describe(_: &mut Schemas) -> Described {
        let mut parameters = parameters::<T>();
        parameters.push(json!({
            "name": "page_size", "in": "query", "required": false, "description": "The most items of the page",
            "schema": { "type": "integer", "minimum": 1, "maximum": 100, "default": 50 },
        }));
        parameters.push(json!({
            "name": "page_token", "in": "query", "required": false,
            "description": "next_page_token of the page before; only for the same list with the same filters",
            "schema": { "type": "string" },
        }));
        Described { parameters, body: None }
    }

    fn read(sent: Sent) -> Result<Self> {
        no_body(&sent)?;
        let (mut size, mut token, mut filters) = (None, None, Vec::new());
        for (name, value) in sent.query {
            let place = match name.as_str() {
                "page_size" => &mut size,
                "page_token" => &mut token,
                _ => {
                    filters.push((name, value));
                    continue;
                }
            };
            if place.replace(value).is_some() {
                return Err(invalid(format!("the query: {name} is there twice")));
            }
        }
        let paging = Paging::read(&sent.path, &filters, size.as_deref(), token.as_deref())?;
        Ok(Self { paging, filters: query(&filters)? })
    }
}

/// A JSON body.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: DeserializeOwned + ToSchema + Send + 'static> Input for Json<T> {
    fn describe(schemas: &mut Schemas) -> Described {
        Described { parameters: Vec::new(), body: Some(schemas.reference::<T>()) }
    }

    fn read(sent: Sent) -> Result<Self> {
        if let Some((name, _)) = sent.query.first() {
            return Err(invalid(format!("the query: there is no {name} here")));
        }
        let media = sent.content_type.as_deref().unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default().trim();
        if !["application/json", "application/merge-patch+json"]
            .contains(&media.to_ascii_lowercase().as_str())
        {
            let refusal = invalid("the body is JSON: say Content-Type: application/json");
            return Err(refusal.with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        strict::from_slice(&sent.body).map(Self).map_err(|error| unread(&error))
    }
}

fn unread(error: &serde_json::Error) -> Box<Refusal> {
    invalid(format!("the body: {error}"))
}
