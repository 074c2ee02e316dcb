//! The OpenAPI document, put together from the operations.

use berth_oci::ErrorCode;
use serde_json::{Map, Value, json};

use crate::{
    answer, input,
    operation::{Operation, Routes, Rule},
    problem::{self, ProblemBody},
};

/// What the parts of paths are.
const PARAMETERS: &[(&str, &str)] = &[
    ("instance", "Name or id of the instance"),
    ("namespace", "Name of the namespace"),
    ("repository", "Id of the repository, or its path with %2F for each slash: team%2Fapp"),
    ("tag", "Name of the tag"),
    ("reference", "Digest of the artifact, or a tag that points to it"),
    ("digest", "Digest of the artifact"),
    ("user", "Name or id of the user"),
    ("robot", "Name or id of the robot"),
    ("group", "Name or id of the group"),
    ("kind", "user or robot"),
    ("member", "Name or id of the member"),
    ("secret", "Id of the secret"),
    ("role", "Name of the role"),
    ("grant", "Id of the grant"),
    ("provider", "Name of the identity provider"),
    ("trust", "Id of the trust"),
    ("task", "Id of the task"),
    ("edition", "Name of the edition"),
    ("region", "Id of the region"),
];

/// The part of a path that says where a permission is needed, and its word.
pub(crate) fn place(path: &str) -> &'static str {
    ["repository", "namespace", "instance"]
        .into_iter()
        .find(|part| path.contains(&format!("{{{part}}}")))
        .unwrap_or("deployment")
}

fn path_parameters(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
}

/// The statuses of refusals that an operation may have.
fn refusals(operation: &Operation, has_body: bool) -> Vec<u16> {
    let mut statuses = vec![400, 421, 429, 500, 503];
    if operation.rule != Rule::Open || operation.id == "sessions.create" {
        statuses.extend([401, 403]);
    }
    if path_parameters(operation.path).next().is_some() || operation.rule != Rule::Open {
        statuses.push(404);
    }
    if operation.method != http::Method::GET {
        statuses.push(409);
    }
    if operation.conditional {
        statuses.push(412);
    }
    if has_body {
        statuses.extend([413, 415]);
    }
    if operation.repeatable {
        statuses.push(422);
    }
    statuses.sort_unstable();
    statuses
}

fn reason(status: u16) -> &'static str {
    match status {
        400 => "The call can't be understood",
        401 => "No credential, or one that opens nothing",
        403 => "Known, and not allowed; or more than the instance may have",
        404 => "Not there, or not the caller's business",
        409 => "There already, held by something else, or not in a state for this",
        412 => "It was changed since it was seen",
        413 => "The body is too large",
        415 => "The body is no JSON",
        421 => "This host serves no instance",
        422 => "The Idempotency-Key was used for another call",
        429 => "Too many calls; Retry-After says when to come again",
        500 => "A fault of the server",
        _ => "A service that is needed does not answer; try again",
    }
}

/// An operation's page.
pub(crate) fn operation(operation: &Operation, input: input::Described, answer: answer::Described) -> Value {
    let mut parameters = Vec::new();
    for name in path_parameters(operation.path) {
        let description = PARAMETERS.iter().find(|(known, _)| *known == name).map_or("", |(_, text)| text);
        parameters.push(json!({
            "name": name, "in": "path", "required": true, "description": description,
            "schema": { "type": "string", "minLength": 1 },
        }));
    }
    parameters.extend(input.parameters);
    if operation.conditional {
        parameters.push(json!({
            "name": "If-Match", "in": "header", "required": false,
            "description": "The ETag that was seen; 412 when it was changed since. Absent: whatever it is",
            "schema": { "type": "string" },
        }));
    }
    if operation.repeatable {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "A text of your own, such as a UUID. The same call with the same key within 24 hours has one effect, and the same answer",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255 },
        }));
    }
    let mut responses = Map::new();
    let mut done = json!({ "description": answer.description });
    if let Some((media, schema)) = answer.content {
        done["content"] = json!({ media: { "schema": schema } });
    }
    let header = match answer.status.as_u16() {
        201 => Some(("Location", "Where it is")),
        202 => Some(("Location", "The task that says how far it is")),
        _ => answer.tagged.then_some(("ETag", "The version, for If-Match")),
    };
    if let Some((name, description)) = header {
        done["headers"] = json!({ name: { "description": description, "schema": { "type": "string" } } });
    }
    responses.insert(answer.status.as_str().to_owned(), done);
    for status in refusals(operation, input.body.is_some()) {
        let problem = json!({ "$ref": "#/components/schemas/Problem" });
        responses.insert(
            status.to_string(),
            json!({
                "description": reason(status),
                "content": { "application/problem+json": { "schema": problem } },
            }),
        );
    }
    let (noun, _) = operation.id.split_once('.').unwrap_or((operation.id, ""));
    let mut page = json!({
        "operationId": operation.id,
        "tags": [noun],
        "summary": operation.summary,
        "responses": responses,
    });
    if !operation.description.is_empty() {
        page["description"] = operation.description.into();
    }
    if !parameters.is_empty() {
        page["parameters"] = parameters.into();
    }
    if let Some(body) = input.body {
        page["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": body } } });
    }
    let (permission, at) = match operation.rule {
        Rule::Open => {
            page["security"] = json!([]);
            ("", "")
        }
        Rule::Known => ("", place(operation.path)),
        Rule::Needs(permission) => (permission.as_str(), place(operation.path)),
        Rule::NeedsInDeployment(permission) => (permission.as_str(), "deployment"),
        Rule::NeedsWhereBodySays(permission) => (permission.as_str(), "body"),
        Rule::NeedsSomewhere(permission) if place(operation.path) == "deployment" => {
            (permission.as_str(), "deployment")
        }
        Rule::NeedsSomewhere(permission) => (permission.as_str(), "somewhere"),
    };
    // Who may call: for people, and for the test that tries all of them.
    page["x-berth-permission"] = permission.into();
    page["x-berth-place"] = at.into();
    page
}

/// The document of all operations.
pub(crate) fn document(routes: &mut Routes) -> Value {
    let _in_the_document = routes.schemas.reference::<ProblemBody>();
    let codes: Vec<String> = ErrorCode::ALL.into_iter().map(problem::code).collect();
    let mut schemas: Map<String, Value> = routes.schemas.0.clone().into_iter().collect();
    schemas["Problem"]["properties"]["code"]["enum"] = codes.into();
    let mut paths = Map::new();
    for (path, methods) in &routes.paths {
        paths.insert(format!("/api/v1{path}"), methods.clone());
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Berth",
            "version": "1",
            "description": "The management API of Berth. docs/api.md is its guide.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "security": [{ "basic": [] }, { "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "basic": {
                    "type": "http", "scheme": "basic",
                    "description": "A user's name and password, robot$name and a robot's secret, or a name and a token of another issuer",
                },
                "token": {
                    "type": "http", "scheme": "bearer",
                    "description": "The token of POST /api/v1/sessions, or a temporary token",
                },
            },
        },
    })
}
