//! Answers for people and for programs.

use clap::ArgMatches;
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

/// How answers are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Output {
    Table,
    Json,
    Yaml,
    Name,
}

impl Output {
    pub(crate) fn of(arguments: &ArgMatches) -> Self {
        match arguments.try_get_one::<String>("output").ok().flatten().map(String::as_str) {
            Some("json") => Self::Json,
            Some("yaml") => Self::Yaml,
            Some("name") => Self::Name,
            _ => Self::Table,
        }
    }
}

/// The columns of a list.
fn columns(noun: &str) -> &'static [&'static str] {
    match noun {
        "artifact" => &["digest", "artifact_type", "content_size", "pushed_at", "tags"],
        "audit" => &["occurred_at", "type", "principal", "result", "repository", "tag", "subject", "address"],
        "context" => &["current", "name", "server", "instance", "user"],
        "edition" => &["name", "limits"],
        "endpoint" => &["kind", "module", "host"],
        "grant" => &["id", "principal_kind", "principal_name", "role", "scope", "scope_id"],
        "group" => &["name", "description", "disabled"],
        "identity-provider" => &["name", "issuer", "login"],
        "instance" => &["name", "edition", "region", "state", "created_at"],
        "namespace" => &["name", "description", "default_public", "create_on_push", "deleting"],
        "region" => &["id", "city", "cloud"],
        "repository" => &["path", "visibility", "immutable_tags", "summary", "updated_at"],
        "robot" => &["name", "login", "disabled", "expires_at", "last_used_at"],
        "role" => &["name", "built_in", "scopes", "description"],
        "storage" => &["id", "kind", "current", "encrypted"],
        "tag" => &["name", "digest", "content_size", "updated_at", "updated_by"],
        "deployment-task" | "task" => &["id", "kind", "name", "state", "progress", "created_at"],
        "trust" => &["id", "provider", "robot", "audience"],
        "user" => &["name", "email", "disabled", "last_used_at"],
        _ => &[],
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => {
            text.replace(['\n', '\r', '\t'], " ").chars().filter(|c| !c.is_control()).collect()
        }
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| format!("{name}={}", cell(value))).collect::<Vec<_>>().join(",")
        }
        other => other.to_string(),
    }
}

/// JSON has nothing that YAML can't say.
fn yaml(value: &Value) -> String {
    yaml_serde::to_string(value).unwrap_or_default()
}

fn name(noun: &str, item: &Value) -> String {
    let first = match noun {
        "repository" => "path",
        "artifact" => "digest",
        // Its name is that of what it is done to.
        "deployment-task" | "task" => "id",
        _ => "name",
    };
    [first, "id"].iter().map(|field| cell(&item[*field])).find(|text| !text.is_empty()).unwrap_or_default()
}

fn table(header: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).chain(header.get(column));
        cells.map(|cell| cell.width()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width.saturating_sub(cell.width()))));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(header)];
    lines.extend(rows.iter().map(|row| line(row)));
    lines.join("\n")
}

/// Shows a list.
pub(crate) fn list(noun: &str, items: Vec<Value>, output: Output) {
    match output {
        Output::Json => crate::print(&format!("{:#}", Value::Array(items))),
        Output::Yaml => crate::print(&yaml(&Value::Array(items))),
        Output::Name => items.iter().for_each(|item| crate::print(&name(noun, item))),
        Output::Table => {
            let mut known: Vec<String> = columns(noun).iter().map(|&column| column.to_owned()).collect();
            // A list of something else than the noun has columns of its own, its name or id first.
            let fits = |item: &Value| known.first().is_some_and(|column| !item[column.as_str()].is_null());
            if let Some(first) = items.first().filter(|item| !fits(item)) {
                known = first.as_object().into_iter().flat_map(|fields| fields.keys().cloned()).collect();
                known.sort_by_key(|column| (column != "name", column != "id"));
            }
            let rows: Vec<Vec<String>> = items
                .iter()
                .map(|item| known.iter().map(|column| cell(&item[column.as_str()])).collect())
                .collect();
            let header: Vec<String> =
                known.iter().map(|column| column.replace('_', " ").to_uppercase()).collect();
            crate::print(&table(&header, &rows));
        }
    }
}

/// Shows one thing.
pub(crate) fn one(noun: &str, item: &Value, output: Output) {
    if item.is_null() {
        return;
    }
    match output {
        Output::Json => crate::print(&format!("{item:#}")),
        Output::Yaml => crate::print(&yaml(item)),
        Output::Name => crate::print(&name(noun, item)),
        Output::Table => {
            let fields: Vec<(&String, String)> =
                item.as_object().into_iter().flatten().map(|(name, value)| (name, cell(value))).collect();
            let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
            for (name, value) in fields {
                crate::print(format!("{name:width$}  {value}").trim_end());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_others_wrote_does_not_move_the_cursor() {
        assert_eq!(cell(&json!("a\u{1b}[2Jb\nc")), "a[2Jb c");
        assert_eq!(cell(&json!({ "done": 1, "total": null })), "done=1,total=");
    }

    #[test]
    fn columns_stand_below_their_names() {
        let rows = vec![vec!["aé".to_owned(), "x".to_owned()], vec!["b".to_owned(), String::new()]];
        assert_eq!(table(&["A".to_owned(), "B".to_owned()], &rows), "A   B\naé  x\nb");
        let wide = vec![vec!["港口".to_owned(), "x".to_owned()]];
        assert_eq!(table(&["A".to_owned(), "B".to_owned()], &wide), "A     B\n港口  x");
    }

    #[test]
    fn yaml_says_what_json_says() {
        let value = json!({ "a": "no", "b": ["1.0", 1, null, true], "c": "x: y\n- z", "d": {} });
        assert_eq!(yaml_serde::from_str::<Value>(&yaml(&value)).ok(), Some(value));
    }
}
