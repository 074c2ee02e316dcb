//! The OpenAPI document as commands: nouns, verbs, and what they take.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

static TEXT: &str = include_str!("../../../docs/openapi.json");

/// What a parameter takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Text,
    Number,
    Switch,
    /// Never on the command line: from a file, from standard input, or asked for.
    Secret,
    Texts,
    /// `name=value,name=value`, or JSON.
    Object,
    Objects,
}

/// A parameter of an operation.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    /// As the document names it.
    pub(crate) name: &'static str,
    /// As the flag does; that of a list names one of it, and is there once for each.
    pub(crate) flag: &'static str,
    pub(crate) help: &'static str,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
    /// `null` means something else than nothing, as its description says.
    pub(crate) nullable: bool,
    pub(crate) choices: Vec<&'static str>,
    /// The schema of an object's fields.
    pub(crate) fields: BTreeMap<String, Kind>,
}

/// An operation.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) id: &'static str,
    pub(crate) noun: &'static str,
    pub(crate) verb: &'static str,
    pub(crate) method: &'static str,
    /// With its parts in braces.
    pub(crate) path: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) description: &'static str,
    pub(crate) permission: &'static str,
    /// Parts of the path but the instance, in order.
    pub(crate) parts: Vec<Parameter>,
    pub(crate) query: Vec<Parameter>,
    /// The fields of the body; none: it has none.
    pub(crate) body: Option<Vec<Parameter>>,
    pub(crate) conditional: bool,
    pub(crate) repeatable: bool,
    /// It answers a list.
    pub(crate) pages: bool,
    /// The fields of the list's items.
    pub(crate) item: Vec<&'static str>,
    /// Of a size that can be said.
    pub(crate) sized: bool,
    /// It begins a task, which its answer names.
    pub(crate) begins_task: bool,
    /// It answers bytes as they are.
    pub(crate) raw: bool,
}

/// All operations.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) operations: Vec<Operation>,
}

/// The document lives as long as the program.
fn keep(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// The noun as people say it: one of it, with hyphens.
fn noun(tag: &str) -> String {
    let tag = tag.replace('_', "-");
    match tag.strip_suffix("ies") {
        Some(stem) => format!("{stem}y"),
        None if tag.ends_with("ss") => tag,
        None => tag.strip_suffix('s').unwrap_or(&tag).to_owned(),
    }
}

struct Schemas<'a>(&'a Value);

impl<'a> Schemas<'a> {
    /// The schema itself, behind references and beside null.
    fn resolve(&self, schema: &'a Value) -> (&'a Value, bool) {
        if let Some(name) = schema["$ref"].as_str().and_then(|path| path.rsplit('/').next()) {
            return self.resolve(&self.0[name]);
        }
        if let Some(some) = schema["oneOf"].as_array() {
            let nullable = some.iter().any(|one| one["type"] == "null");
            if let Some(one) = some.iter().find(|one| one["type"] != "null") {
                return (self.resolve(one).0, nullable);
            }
        }
        let nullable = schema["type"].as_array().is_some_and(|types| types.iter().any(|one| one == "null"));
        (schema, nullable)
    }

    fn kind(&self, schema: &'a Value) -> Kind {
        let (schema, _) = self.resolve(schema);
        let is = |wanted: &str| {
            schema["type"] == wanted
                || schema["type"].as_array().is_some_and(|types| types.iter().any(|one| one == wanted))
        };
        if schema["format"] == "password" {
            Kind::Secret
        } else if is("boolean") {
            Kind::Switch
        } else if is("integer") {
            Kind::Number
        } else if is("array") {
            let inner = self.kind(&schema["items"]);
            if matches!(inner, Kind::Object) { Kind::Objects } else { Kind::Texts }
        } else if is("object") {
            Kind::Object
        } else {
            Kind::Text
        }
    }

    /// What a schema says of itself, here or beside null; empty: nothing.
    fn said(&self, schema: &'a Value) -> &'a str {
        let beside = schema["oneOf"].as_array().into_iter().flatten().find(|one| one["type"] != "null");
        let said = [Some(schema), beside, Some(self.resolve(schema).0)];
        let mut said = said.into_iter().flatten().filter_map(|one| one["description"].as_str());
        said.find(|text| !text.is_empty()).unwrap_or_default()
    }

    /// The names of an object's fields.
    fn fields(&self, schema: &'a Value) -> Vec<&'static str> {
        let (own, _) = self.resolve(schema);
        let parts = own["allOf"].as_array().into_iter().flatten().flat_map(|part| self.fields(part));
        let fields = own["properties"].as_object().into_iter().flatten();
        fields.map(|(name, _)| keep(name.clone())).chain(parts).collect()
    }

    fn parameter(&self, name: &str, help: &str, schema: &'a Value, required: bool) -> Parameter {
        let (own, nullable) = self.resolve(schema);
        let kind = self.kind(schema);
        let inner = if kind == Kind::Objects { self.resolve(&own["items"]).0 } else { own };
        let fields = inner["properties"].as_object().into_iter().flatten();
        let fields = fields.map(|(name, schema)| (name.clone(), self.kind(schema))).collect();
        let choices = own["enum"].as_array().into_iter().flatten();
        let choices = choices.filter_map(|one| one.as_str()).map(|one| keep(one.to_owned()));
        let said = if help.is_empty() { self.said(schema) } else { help };
        let one = match kind {
            Kind::Texts | Kind::Objects => name.strip_suffix('s').unwrap_or(name),
            _ => name,
        };
        Parameter {
            name: keep(name.to_owned()),
            flag: keep(one.replace('_', "-")),
            help: keep(said.trim_end_matches('.').to_owned()),
            kind,
            required,
            nullable: nullable && said.contains("null"),
            choices: choices.collect(),
            fields,
        }
    }
}

fn operation(schemas: &Schemas<'_>, path: &str, method: &str, page: &Value) -> Result<Operation> {
    let id = page["operationId"].as_str().context("an operation without a name")?;
    let (tag, verb) = id.split_once('.').context("an operation without a verb")?;
    let (mut parts, mut query, mut sized) = (Vec::new(), Vec::new(), false);
    let (mut conditional, mut repeatable) = (false, false);
    for parameter in page["parameters"].as_array().into_iter().flatten() {
        let name = parameter["name"].as_str().unwrap_or_default();
        // A terminal takes paths as they are.
        let help = parameter["description"].as_str().unwrap_or_default();
        let help = &help.replace(" with %2F for each slash: team%2Fapp", ": team/app");
        let read = schemas.parameter(name, help, &parameter["schema"], parameter["required"] == true);
        match (parameter["in"].as_str(), name) {
            (Some("path"), "instance") => {}
            (Some("path"), _) => parts.push(read),
            (Some("query"), "page_size" | "page_token") => sized = true,
            (Some("query"), _) => query.push(read),
            (_, "If-Match") => conditional = true,
            (_, "Idempotency-Key") => repeatable = true,
            _ => {}
        }
    }
    let body = page["requestBody"]["content"]["application/json"]["schema"].as_object().map(|_| {
        let (schema, _) = schemas.resolve(&page["requestBody"]["content"]["application/json"]["schema"]);
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let fields = schema["properties"].as_object().into_iter().flatten();
        fields
            .map(|(name, field)| schemas.parameter(name, "", field, required.contains(&name.as_str())))
            .collect()
    });
    let answer = page["responses"]["200"]["content"].as_object();
    let media = answer.and_then(|content| content.keys().next()).map(String::as_str);
    let shown = &page["responses"]["200"]["content"]["application/json"]["schema"];
    let begun = &page["responses"]["202"]["content"]["application/json"]["schema"];
    Ok(Operation {
        id: keep(id.to_owned()),
        noun: keep(noun(tag)),
        verb: keep(verb.replace('_', "-")),
        method: keep(method.to_uppercase()),
        path: keep(path.to_owned()),
        summary: keep(page["summary"].as_str().unwrap_or_default().to_owned()),
        description: keep(page["description"].as_str().unwrap_or_default().to_owned()),
        permission: keep(page["x-berth-permission"].as_str().unwrap_or_default().to_owned()),
        parts,
        query,
        body,
        conditional,
        repeatable,
        pages: shown["properties"]["next_page_token"].is_object(),
        item: schemas.fields(&shown["properties"]["items"]["items"]),
        sized,
        begins_task: schemas.resolve(begun).0["properties"]["task_id"].is_object(),
        raw: media.is_some_and(|media| media != "application/json")
            || (shown["type"] == "object" && shown["properties"].is_null()),
    })
}

impl Document {
    /// Reads the document. Pages for browsers are no commands.
    pub(crate) fn read() -> Result<Self> {
        let document: Value = serde_json::from_str(TEXT).context("the document can't be read")?;
        let schemas = Schemas(&document["components"]["schemas"]);
        let mut operations = Vec::new();
        for (path, methods) in document["paths"].as_object().into_iter().flatten() {
            for (method, page) in methods.as_object().into_iter().flatten() {
                if page["responses"]["200"]["content"]["text/html"].is_null() {
                    operations.push(operation(&schemas, path, method, page)?);
                }
            }
        }
        operations.sort_by_key(|operation| (operation.noun, operation.verb));
        Ok(Self { operations })
    }

    /// The operation behind a noun and a verb.
    pub(crate) fn operation(&self, noun: &str, verb: &str) -> Option<&Operation> {
        self.operations.iter().find(|operation| operation.noun == noun && operation.verb == verb)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

    use super::*;

    #[test]
    fn every_operation_of_the_document_is_a_command_of_its_own() {
        let document = Document::read().unwrap();
        let whole: Value = serde_json::from_str(TEXT).unwrap();
        let methods = whole["paths"].as_object().unwrap().values();
        let all: usize = methods.map(|methods| methods.as_object().unwrap().len()).sum();
        // Two are a page for browsers.
        assert_eq!(document.operations.len(), all - 2);
        let mut named: Vec<_> = document.operations.iter().map(|one| (one.noun, one.verb)).collect();
        named.dedup();
        assert_eq!(named.len(), document.operations.len());
        crate::commands::command(&document).debug_assert();
    }

    #[test]
    fn parameters_are_of_their_kinds() {
        let document = Document::read().unwrap();
        let of = |noun, verb, name: &str| {
            let operation = document.operation(noun, verb).unwrap();
            let body = operation.body.iter().flatten();
            operation.query.iter().chain(body).find(|one| one.name == name).unwrap().clone()
        };
        assert_eq!(of("user", "create", "password").kind, Kind::Secret);
        assert_eq!(of("robot", "create", "grants").kind, Kind::Objects);
        assert_eq!(of("grant", "create", "principal").kind, Kind::Object);
        assert_eq!(of("repository", "list", "visibility").choices, ["public", "private"]);
        assert!(of("robot", "update", "expires_at").nullable && !of("robot", "create", "name").nullable);
        assert!(of("identity-provider", "update", "client_secret").nullable);
        // There null is the same as nothing.
        assert!(!of("user", "create", "password").nullable && !of("robot", "update", "disabled").nullable);
        assert_eq!(of("role", "create", "scopes").flag, "scope");
        assert!(document.operation("repository", "list").unwrap().pages);
        assert!(document.operation("artifact", "get-manifest").unwrap().raw);
    }
}
