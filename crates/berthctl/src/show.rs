//! Answers for people and for programs.

use clap::ArgMatches;
use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use crate::document::Operation;

/// Objects with so many fields stay in a line.
const SHORT: usize = 3;

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

/// The columns of a list, chosen by what it lists; else all that its items have.
pub(crate) fn columns(operation: &Operation) -> &[&'static str] {
    match operation.id {
        "artifacts.list" => &["digest", "artifact_type", "content_size", "pushed_at", "tags"],
        "artifacts.list_history" => &["created", "layer", "created_by"],
        "artifacts.list_referrers" => &["digest", "artifact_type", "size", "annotations"],
        "audit.list" => {
            &["occurred_at", "type", "principal", "result", "repository", "tag", "subject", "address"]
        }
        "deployment_tasks.list" | "tasks.list" => &["id", "kind", "name", "state", "progress", "created_at"],
        "editions.list" => &["name", "limits"],
        "endpoints.list" => &["kind", "module", "host"],
        "grants.list" => &["id", "principal_kind", "principal_name", "role", "scope", "scope_id"],
        "groups.list" => &["name", "description", "disabled"],
        "groups.list_members" => &["kind", "name", "id"],
        "identity_providers.list" => &["name", "issuer", "login"],
        "instances.list" => &["name", "edition", "region", "state", "created_at"],
        "namespaces.list" => &["name", "description", "default_public", "create_on_push", "deleting"],
        "regions.list" => &["id", "city", "cloud"],
        "repositories.list" => &["path", "visibility", "immutable_tags", "summary", "updated_at"],
        "robots.list" => &["name", "login", "disabled", "expires_at", "last_used_at"],
        "robots.list_secrets" => &["id", "created_at", "last_used_at"],
        "roles.list" => &["name", "built_in", "scopes", "description"],
        "storage.list" => &["id", "kind", "current", "encrypted"],
        "tags.list" => &["name", "digest", "content_size", "updated_at", "updated_by"],
        "trusts.list" => &["id", "provider", "robot", "audience"],
        "users.list" => &["name", "email", "disabled", "last_used_at"],
        _ => &operation.item,
    }
}

/// What others wrote, names of annotations as well, on one line and without what moves the cursor.
fn plain(text: &str) -> String {
    text.replace(['\n', '\r', '\t'], " ").chars().filter(|c| !c.is_control()).collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => plain(text),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| format!("{}={}", plain(name), cell(value)))
            .collect::<Vec<_>>()
            .join(","),
        other => other.to_string(),
    }
}

/// JSON has nothing that YAML can't say.
fn yaml(value: &Value) -> String {
    yaml_serde::to_string(value).unwrap_or_default()
}

/// What it is called. What has no name has no line either: whoever reads lines takes each for a name.
fn name(noun: &str, item: &Value) -> Option<String> {
    let first = match noun {
        "repository" => "path",
        "artifact" => "digest",
        // Its name is that of what it is done to.
        "audit" | "deployment-task" | "task" => "id",
        "endpoint" => "host",
        _ => "name",
    };
    [first, "id", "task_id"].iter().map(|field| cell(&item[*field])).find(|text| !text.is_empty())
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

/// Things below each other, with the names of their columns above.
fn rows(columns: &[&str], items: &[Value]) -> String {
    let rows: Vec<Vec<String>> =
        items.iter().map(|item| columns.iter().map(|&column| cell(&item[column])).collect()).collect();
    let header: Vec<String> =
        columns.iter().map(|column| plain(column).replace('_', " ").to_uppercase()).collect();
    table(&header, &rows)
}

/// Shows a list.
pub(crate) fn list(columns: &[&str], noun: &str, items: &[Value], output: Output) {
    match output {
        Output::Json => crate::print(&format!("{:#}", Value::from(items))),
        Output::Yaml => crate::print(&yaml(&Value::from(items))),
        Output::Name => items.iter().filter_map(|item| name(noun, item)).for_each(|name| crate::print(&name)),
        Output::Table => crate::print(&rows(columns, items)),
    }
}

/// What objects in a list have, what they are called by first.
fn parts(items: &[Value]) -> Vec<&str> {
    let mut parts: Vec<&str> = Vec::new();
    for field in items.iter().filter_map(Value::as_object).flat_map(|fields| fields.keys()) {
        if !parts.contains(&field.as_str()) {
            parts.push(field);
        }
    }
    parts.sort_by_key(|&part| (part != "name", part != "kind", part != "os", part != "digest"));
    parts
}

/// The fields of one thing, one a line; those that hold more of them are indented below their names.
fn fields(item: &Value) -> Vec<String> {
    let known: Vec<(String, &Value)> =
        item.as_object().into_iter().flatten().map(|(name, value)| (plain(name), value)).collect();
    let width = known.iter().map(|(name, _)| name.width()).max().unwrap_or_default();
    let mut lines = Vec::new();
    for (name, value) in known {
        let below = match value {
            Value::Array(items) if items.iter().any(Value::is_object) => {
                rows(&parts(items), items).lines().map(str::to_owned).collect()
            }
            Value::Object(more) if more.len() > SHORT => fields(value),
            _ => {
                let gap = " ".repeat(width - name.width());
                lines.push(format!("{name}{gap}  {}", cell(value)).trim_end().to_owned());
                continue;
            }
        };
        lines.push(name);
        lines.extend(below.iter().map(|line| format!("  {line}")));
    }
    lines
}

/// Shows one thing.
pub(crate) fn one(noun: &str, item: &Value, output: Output) {
    if item.is_null() {
        return;
    }
    match output {
        Output::Json => crate::print(&format!("{item:#}")),
        Output::Yaml => crate::print(&yaml(item)),
        Output::Name => name(noun, item).iter().for_each(|name| crate::print(name)),
        Output::Table => crate::print(&fields(item).join("\n")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

    use serde_json::json;

    use super::*;
    use crate::document::Document;

    #[test]
    fn every_column_of_every_list_is_in_its_items() {
        let document = Document::read().unwrap();
        let lists: Vec<_> = document.operations.iter().filter(|operation| operation.pages).collect();
        assert!(lists.len() > 20);
        for list in lists {
            let shown = columns(list);
            assert!(!shown.is_empty() && shown.len() < 9, "{}: {shown:?}", list.id);
            for column in shown {
                assert!(list.item.contains(column), "{}: {column}", list.id);
            }
        }
    }

    #[test]
    fn things_in_a_thing_stand_below_its_name() {
        let thing = json!({
            "queues": [{ "depth": 0, "name": "link" }, { "name": "blob", "depth": 12, "first_due": "2027" }],
            "limits": { "a": 1, "b": 2, "c": 3, "d": 4 },
            "layers": [], "progress": { "done": 1, "total": 2 }, "scopes": ["namespace", "repository"],
        });
        let expected = "\
layers
limits
  a  1
  b  2
  c  3
  d  4
progress  done=1,total=2
queues
  NAME  DEPTH  FIRST DUE
  link  0
  blob  12     2027
scopes    namespace,repository";
        assert_eq!(fields(&thing).join("\n"), expected);
    }

    #[test]
    fn what_has_no_name_has_no_line() {
        assert_eq!(name("instance", &json!({ "blobs": 1 })), None);
        assert_eq!(name("storage", &json!({ "id": "" })), None);
        assert_eq!(name("garbage-collection", &json!({ "task_id": "01KQ" })).as_deref(), Some("01KQ"));
        assert_eq!(name("group", &json!({ "id": "01KQ", "name": "crew" })).as_deref(), Some("crew"));
    }

    #[test]
    fn what_others_wrote_does_not_move_the_cursor() {
        assert_eq!(cell(&json!("a\u{1b}[2Jb\nc")), "a[2Jb c");
        assert_eq!(cell(&json!({ "done": 1, "total": null })), "done=1,total=");
        assert_eq!(cell(&json!({ "a\u{1b}b": 1 })), "ab=1");
        assert_eq!(fields(&json!({ "a\u{1b}[2J\nb": "c" })), ["a[2J b  c"]);
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
