//! What a call that went well is answered with, and how the document says so.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

pub(crate) type Body = axum::body::Body;

/// The schemas that operations name, by name.
#[derive(Default, Debug)]
pub(crate) struct Schemas(pub(crate) BTreeMap<String, Value>);

impl Schemas {
    /// A reference to a type's schema, which is in the document from now on.
    pub(crate) fn reference<T: ToSchema>(&mut self) -> Value {
        let mut found = Vec::new();
        T::schemas(&mut found);
        found.push((T::name().into_owned(), T::schema()));
        for (name, schema) in found {
            // Made by a derive: nothing that JSON has no words for.
            let schema = serde_json::to_value(schema).unwrap_or_default();
            let kept = self.0.entry(name).or_insert_with(|| schema.clone());
            debug_assert_eq!(*kept, schema, "two types of one name");
        }
        json!({ "$ref": format!("#/components/schemas/{}", T::name()) })
    }
}

/// An answer in the document.
#[derive(Debug)]
pub(crate) struct Described {
    pub(crate) status: StatusCode,
    pub(crate) description: &'static str,
    /// Media type and schema; none: no body.
    pub(crate) content: Option<(&'static str, Value)>,
    /// It carries an ETag.
    pub(crate) tagged: bool,
}

/// What a handler gives back.
pub(crate) trait Answer: Send + 'static {
    fn describe(schemas: &mut Schemas) -> Described;
    fn respond(self) -> Response<Body>;
}

/// Something with a version, which is its entity tag.
pub(crate) trait Versioned {
    fn version(&self) -> i64;
}

pub(crate) fn entity_tag(version: i64) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{version}\"")).unwrap_or(HeaderValue::from_static("\"0\""))
}

fn json_response(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).unwrap_or_default();
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const JSON: &str = "application/json";

/// 200 with something that is not changed by itself.
#[derive(Debug)]
pub(crate) struct Plain<T>(pub(crate) T);

impl<T: Serialize + ToSchema + Send + 'static> Answer for Plain<T> {
    fn describe(schemas: &mut Schemas) -> Described {
        let content = Some((JSON, schemas.reference::<T>()));
        Described { status: StatusCode::OK, description: "Done", content, tagged: false }
    }

    fn respond(self) -> Response<Body> {
        json_response(StatusCode::OK, &self.0)
    }
}

/// 200 with something that has a version.
#[derive(Debug)]
pub(crate) struct Entity<T>(pub(crate) T);

impl<T: Serialize + ToSchema + Versioned + Send + 'static> Answer for Entity<T> {
    fn describe(schemas: &mut Schemas) -> Described {
        Described { tagged: true, ..Plain::<T>::describe(schemas) }
    }

    fn respond(self) -> Response<Body> {
        let tag = entity_tag(self.0.version());
        let mut response = json_response(StatusCode::OK, &self.0);
        response.headers_mut().insert(header::ETAG, tag);
        response
    }
}

/// 201 with what was made, and where it is.
#[derive(Debug)]
pub(crate) struct Created<T> {
    pub(crate) location: String,
    pub(crate) made: T,
}

impl<T: Serialize + ToSchema + Send + 'static> Answer for Created<T> {
    fn describe(schemas: &mut Schemas) -> Described {
        let content = Some((JSON, schemas.reference::<T>()));
        Described { status: StatusCode::CREATED, description: "Made", content, tagged: false }
    }

    fn respond(self) -> Response<Body> {
        let mut response = json_response(StatusCode::CREATED, &self.made);
        if let Ok(location) = HeaderValue::from_str(&self.location) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}

/// Something that has a path.
pub(crate) trait Located {
    fn location(&self) -> &str;
}

/// 202 with what goes on, and where it says how far it is.
#[derive(Debug)]
pub(crate) struct Accepted<T>(pub(crate) T);

impl<T: Serialize + ToSchema + Located + Send + 'static> Answer for Accepted<T> {
    fn describe(schemas: &mut Schemas) -> Described {
        let content = Some((JSON, schemas.reference::<T>()));
        Described { status: StatusCode::ACCEPTED, description: "Begun; it goes on", content, tagged: false }
    }

    fn respond(self) -> Response<Body> {
        let mut response = json_response(StatusCode::ACCEPTED, &self.0);
        if let Ok(location) = HeaderValue::from_str(self.0.location()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}

/// 204.
#[derive(Debug)]
pub(crate) struct Done;

impl Answer for Done {
    fn describe(_: &mut Schemas) -> Described {
        Described { status: StatusCode::NO_CONTENT, description: "Done", content: None, tagged: false }
    }

    fn respond(self) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        response
    }
}

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub(crate) items: Vec<T>,
    /// What the next page is asked for with; none: there is none.
    pub(crate) next: Option<String>,
}

impl<T: Serialize + ToSchema + Send + 'static> Answer for Page<T> {
    fn describe(schemas: &mut Schemas) -> Described {
        let item = schemas.reference::<T>();
        let schema = json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "items": { "type": "array", "items": item },
                "next_page_token": {
                    "type": "string",
                    "description": "What the next page is asked for with, as page_token; absent: there is none",
                },
            },
        });
        let content = Some((JSON, schema));
        Described { status: StatusCode::OK, description: "A page", content, tagged: false }
    }

    fn respond(self) -> Response<Body> {
        #[derive(Serialize)]
        struct Written<T> {
            items: Vec<T>,
            #[serde(skip_serializing_if = "Option::is_none")]
            next_page_token: Option<String>,
        }
        json_response(StatusCode::OK, &Written { items: self.items, next_page_token: self.next })
    }
}

/// What bytes are.
pub(crate) trait Media: Send + 'static {
    const TYPE: &'static str;
    /// Their schema.
    fn schema() -> Value;
}

/// JSON of others, byte for byte.
#[derive(Debug)]
pub(crate) struct JsonBytes;

impl Media for JsonBytes {
    const TYPE: &'static str = JSON;

    fn schema() -> Value {
        json!({ "type": "object" })
    }
}

/// A JSON object a line.
#[derive(Debug)]
pub(crate) struct JsonLines;

impl Media for JsonLines {
    const TYPE: &'static str = "application/jsonl";

    fn schema() -> Value {
        json!({ "type": "string" })
    }
}

/// 200 with bytes as they are, or a stream of them.
#[derive(Debug)]
pub(crate) struct Raw<M> {
    pub(crate) body: Body,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    media: std::marker::PhantomData<M>,
}

impl<M: Media> Raw<M> {
    pub(crate) fn new(body: impl Into<Body>) -> Self {
        Self { body: body.into(), headers: Vec::new(), media: std::marker::PhantomData }
    }
}

impl<M: Media> Answer for Raw<M> {
    fn describe(_: &mut Schemas) -> Described {
        let content = Some((M::TYPE, M::schema()));
        Described { status: StatusCode::OK, description: "The bytes", content, tagged: false }
    }

    fn respond(self) -> Response<Body> {
        let mut response = Response::new(self.body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(M::TYPE));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.headers);
        response
    }
}
