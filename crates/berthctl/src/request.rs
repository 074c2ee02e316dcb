//! From arguments to a call, and from its answer to the terminal.

use std::{collections::BTreeMap, io::Read, sync::Arc};

use clap::{ArgMatches, parser::ValueSource};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::{
    client::{Call, Client},
    contexts::Target,
    document::{Kind, Operation, Parameter},
    failure::Failure,
    show::{self, Output},
    tasks,
};

/// What may stand in a part of a path as it is.
pub(crate) const PART: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'+').remove(b'@');

/// The most items of a page.
const PAGE: u64 = 100;

pub(crate) fn read(file: &str) -> Result<String, Failure> {
    if file == "-" {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| Failure::usage(format!("can't read standard input: {error}")))?;
        return Ok(text);
    }
    std::fs::read_to_string(file).map_err(|error| Failure::usage(format!("can't read {file}: {error}")))
}

/// `name=value,name=value`, JSON, or of a principal `kind:name`.
fn object(text: &str, fields: &BTreeMap<String, Kind>) -> Result<Value, Failure> {
    if text.trim_start().starts_with('{') {
        return serde_json::from_str(text)
            .map_err(|error| Failure::usage(format!("{text} is no JSON: {error}")));
    }
    if let (Some((kind, name)), true) = (text.split_once(':'), fields.contains_key("kind")) {
        return Ok(json!({ "kind": kind, "name": name }));
    }
    let mut object = Map::new();
    for pair in text.split(',') {
        let names = || fields.keys().cloned().collect::<Vec<_>>().join(", ");
        let (name, value) = pair
            .split_once('=')
            .ok_or_else(|| Failure::usage(format!("{pair:?} is no NAME=VALUE; the names are {}", names())))?;
        let value = match fields.get(name) {
            Some(Kind::Switch) => json!(value == "true"),
            Some(Kind::Number) => json!(
                value
                    .parse::<u64>()
                    .map_err(|_| { Failure::usage(format!("{name}={value}: a number is needed")) })?
            ),
            // What an object may have without a list of names is not ours to judge.
            Some(_) => json!(value),
            None if fields.is_empty() => json!(value),
            None => {
                return Err(Failure::usage(format!("there is no {name} here; the names are {}", names())));
            }
        };
        object.insert(name.to_owned(), value);
    }
    Ok(Value::Object(object))
}

fn value(parameter: &Parameter, arguments: &ArgMatches) -> Result<Option<Value>, Failure> {
    let name = parameter.name;
    if arguments.value_source(name) != Some(ValueSource::CommandLine) {
        return Ok(None);
    }
    let text = || arguments.get_one::<String>(name).map(String::as_str).unwrap_or_default();
    let texts = || arguments.get_many::<String>(name).into_iter().flatten();
    Ok(Some(match parameter.kind {
        Kind::Text => json!(text()),
        Kind::Number => json!(arguments.get_one::<u64>(name)),
        Kind::Switch => json!(arguments.get_one::<bool>(name)),
        Kind::Secret => json!(read(text())?.trim_end_matches(['\n', '\r'])),
        Kind::Texts => json!(texts().collect::<Vec<_>>()),
        Kind::Object => object(text(), &parameter.fields)?,
        Kind::Objects => {
            Value::Array(texts().map(|text| object(text, &parameter.fields)).collect::<Result<_, _>>()?)
        }
    }))
}

fn body(fields: &[Parameter], arguments: &ArgMatches) -> Result<Value, Failure> {
    let mut body = match arguments.get_one::<String>("body") {
        Some(file) => serde_json::from_str(&read(file)?)
            .map_err(|error| Failure::usage(format!("the body is no JSON: {error}")))?,
        None => json!({}),
    };
    for field in fields {
        if let Some(value) = value(field, arguments)? {
            body[field.name] = value;
        }
        let none = format!("no:{}", field.name);
        if arguments.try_get_one::<bool>(&none).ok().flatten() == Some(&true) {
            body[field.name] = Value::Null;
        }
    }
    Ok(body)
}

/// A part of a path. Without a name, or with dots for one, it would be the path of something else.
fn part(what: &str, given: &str) -> Result<String, Failure> {
    match given {
        "" => Err(Failure::usage(format!("{what} is empty; see --help for what it is"))),
        "." | ".." => Err(Failure::usage(format!("{what} can't be {given}; see --help for what it is"))),
        given => Ok(utf8_percent_encode(given, PART).to_string()),
    }
}

fn path(operation: &Operation, target: &Target, arguments: &ArgMatches) -> Result<String, Failure> {
    let mut path = operation.path.strip_prefix("/api/v1").unwrap_or(operation.path).to_owned();
    if path.contains("{instance}") {
        if target.instance.is_empty() {
            return Err(Failure::usage("say which instance: --instance NAME, or log in to one"));
        }
        path = path.replace("{instance}", &part("--instance", &target.instance)?);
    }
    for one in &operation.parts {
        let given = arguments.get_one::<String>(one.name).map(String::as_str).unwrap_or_default();
        path = path.replace(&format!("{{{}}}", one.name), &part(&one.flag.to_uppercase(), given)?);
    }
    Ok(path)
}

fn query(operation: &Operation, arguments: &ArgMatches) -> Result<Vec<(String, String)>, Failure> {
    let mut pairs = Vec::new();
    for parameter in &operation.query {
        if let Some(value) = value(parameter, arguments)? {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            pairs.push((parameter.name.to_owned(), text));
        }
    }
    Ok(pairs)
}

fn with_query(path: &str, pairs: &[(String, String)]) -> String {
    if pairs.is_empty() {
        return path.to_owned();
    }
    format!("{path}?{}", form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish())
}

/// Runs an operation and shows its answer.
pub(crate) async fn run(
    client: &Client,
    target: &Target,
    operation: &Operation,
    arguments: &ArgMatches,
    output: Output,
) -> Result<(), Failure> {
    let path = path(operation, target, arguments)?;
    if arguments.try_get_one::<bool>("watch").ok().flatten() == Some(&true) {
        show::one("task", &tasks::watch(client, &path).await?, output);
        return Ok(());
    }
    let pairs = query(operation, arguments)?;
    if operation.pages {
        return pages(client, operation, arguments, output, &path, pairs).await;
    }
    let method: Method = operation.method.parse().map_err(|_| Failure::usage("a method that is none"))?;
    let mut headers = Vec::new();
    if operation.repeatable {
        let ids = berth_service::Ids::random(Arc::new(berth_service::SystemClock));
        headers.push(("idempotency-key", ids.ulid().to_string()));
    }
    if let Some(version) = arguments.try_get_one::<String>("if-match").ok().flatten() {
        headers.push(("if-match", format!("\"{}\"", version.trim_matches('"'))));
    }
    let repeatable = operation.repeatable || method == Method::GET;
    let body = operation.body.as_ref().map(|fields| body(fields, arguments)).transpose()?;
    let call = Call { method, path: with_query(&path, &pairs), body, headers, repeatable };
    let reply = client.call(&call).await.map_err(|failure| failure.in_flags(operation))?;
    if operation.raw {
        crate::print_bytes(&reply.body);
        return Ok(());
    }
    let answer = reply.json();
    let waits = arguments.try_get_one::<bool>("wait").ok().flatten() == Some(&true);
    if waits {
        let Some(task) = &reply.location else {
            crate::remark("it has begun; the registry does not say where it can be waited for");
            return Err(Failure::usage("there is no task to wait for"));
        };
        show::one("task", &tasks::watch(client, task).await?, output);
        return Ok(());
    }
    show::one(operation.noun, &answer, output);
    Ok(())
}

async fn pages(
    client: &Client,
    operation: &Operation,
    arguments: &ArgMatches,
    output: Output,
    path: &str,
    filters: Vec<(String, String)>,
) -> Result<(), Failure> {
    let mut left = arguments.get_one::<u64>("limit").copied().unwrap_or(u64::MAX);
    let (mut items, mut token) = (Vec::new(), None::<String>);
    while left > 0 {
        let mut pairs = filters.clone();
        // What has no pages takes no size.
        if operation.sized {
            pairs.push(("page_size".to_owned(), left.min(PAGE).to_string()));
        }
        if let Some(token) = &token {
            pairs.push(("page_token".to_owned(), token.clone()));
        }
        let page = client.call(&Call::get(with_query(path, &pairs))).await;
        let page = page.map_err(|failure| failure.in_flags(operation))?.json();
        let found = page["items"].as_array().cloned().unwrap_or_default();
        left = left.saturating_sub(found.len() as u64);
        items.extend(found);
        token = page["next_page_token"].as_str().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    if let Some(limit) = arguments.get_one::<u64>("limit") {
        items.truncate(usize::try_from(*limit).unwrap_or(usize::MAX));
    }
    show::list(show::columns(operation), operation.noun, &items, output);
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

    use super::*;
    use crate::{commands, document::Document};

    #[test]
    fn a_part_of_a_path_is_never_the_path_of_something_else() {
        let document = Document::read().unwrap();
        let target = Target {
            server: String::new(),
            instance: "acme".to_owned(),
            token: None,
            ca: String::new(),
            plain_http: false,
        };
        let path = |noun: &str, verb: &str, given: &[&str]| {
            let words = ["berthctl", noun, verb].into_iter().chain(given.iter().copied());
            let matches = commands::command(&document).try_get_matches_from(words).unwrap();
            let (_, rest) = matches.subcommand().unwrap();
            let (_, arguments) = rest.subcommand().unwrap();
            path(document.operation(noun, verb).unwrap(), &target, arguments).map_err(|one| one.to_string())
        };
        let app = path("tag", "get", &["team/app", "v1"]).unwrap();
        assert_eq!(app, "/instances/acme/repositories/team%2Fapp/tags/v1");
        for wrong in ["", ".", ".."] {
            assert!(path("tag", "get", &["team/app", wrong]).unwrap_err().starts_with("TAG "), "{wrong:?}");
            assert!(
                path("namespace", "delete", &[wrong]).unwrap_err().starts_with("NAMESPACE "),
                "{wrong:?}"
            );
        }
        assert!(path("namespace", "delete", &["a..b"]).is_ok());
    }

    #[test]
    fn lists_come_from_commas_or_from_a_flag_for_each() {
        let document = Document::read().unwrap();
        let operation = document.operation("role", "create").unwrap();
        for given in
            [&["--scopes", "namespace,repository"][..], &["--scope", "namespace", "--scope", "repository"]]
        {
            let words = ["berthctl", "role", "create", "--name", "x", "--permission", "artifact:*"];
            let words = words.iter().chain(given).copied();
            let matches = commands::command(&document).try_get_matches_from(words).unwrap();
            let arguments = matches.subcommand().unwrap().1.subcommand().unwrap().1;
            let body = body(operation.body.as_ref().unwrap(), arguments).unwrap();
            let expected =
                json!({ "name": "x", "scopes": ["namespace", "repository"], "permissions": ["artifact:*"] });
            assert_eq!(body, expected);
        }
    }
}
