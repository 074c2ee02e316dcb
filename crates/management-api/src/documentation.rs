//! The document, and the page that shows it. Its files are in the binary; nothing is fetched from elsewhere.

use std::sync::{Arc, LazyLock};

use berth_oci::ErrorCode;
use http::{HeaderValue, header};
use serde_json::Value;
use utoipa_swagger_ui::Config;

use crate::{
    answer::{Answer, Body, Described, JsonBytes, Raw, Schemas},
    call::Call,
    input::Nothing,
    operation::{Operation, Routes, Rule},
    problem::{Refusal, Result},
};

static PAGE: LazyLock<Arc<Config<'static>>> =
    LazyLock::new(|| Arc::new(Config::from("/api/v1/openapi.json").validator_url("none")));

/// A file of the page.
struct File {
    content_type: String,
    bytes: bytes::Bytes,
}

impl Answer for File {
    fn describe(_: &mut Schemas) -> Described {
        let content = Some((
            "text/html",
            Value::Object(serde_json::Map::from_iter([("type".into(), "string".into())])),
        ));
        Described { status: http::StatusCode::OK, description: "A file of the page", content, tagged: false }
    }

    fn respond(self) -> http::Response<Body> {
        let mut response = http::Response::new(Body::from(self.bytes));
        let headers = response.headers_mut();
        if let Ok(content_type) = HeaderValue::from_str(&self.content_type) {
            headers.insert(header::CONTENT_TYPE, content_type);
        }
        headers.insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(
                "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'",
            ),
        );
        response
    }
}

pub(crate) fn add(routes: &mut Routes) {
    let document = Operation::get("/openapi.json", "documentation.get", "This document", Rule::Open);
    routes.add(document, async |call: Call, _: Nothing| {
        Ok::<_, Box<Refusal>>(Raw::<JsonBytes>::new(call.parts.document.clone()))
    });
    let page = Operation::get("/docs", "documentation.browse", "This document as a page", Rule::Open);
    routes.add(page, async |_: Call, _: Nothing| index());
    let parts =
        Operation::get("/docs/{file}", "documentation.browse_file", "A file of that page", Rule::Open);
    routes.add(parts, async |call: Call, _: Nothing| file(call.param("file")));
}

/// Its other files are below it, whatever the page's own path ends in.
fn index() -> Result<File> {
    let page = file("index.html")?;
    let text = String::from_utf8_lossy(&page.bytes);
    let text = text.replacen("<head>", "<head><base href=\"/api/v1/docs/\">", 1);
    Ok(File { bytes: text.into_bytes().into(), ..page })
}

fn file(name: &str) -> Result<File> {
    let absent = || Refusal::new(ErrorCode::NotFound, format!("the page has no file {name}"));
    let found = utoipa_swagger_ui::serve(name, Arc::clone(&PAGE)).map_err(|error| {
        tracing::error!(%error, "the page of the document can't be made");
        absent()
    })?;
    let found = found.ok_or_else(absent)?;
    Ok(File { content_type: found.content_type, bytes: found.bytes.into_owned().into() })
}
