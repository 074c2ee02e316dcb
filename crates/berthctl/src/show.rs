//! Answers for people and for programs.

use clap::ArgMatches;
use serde_json::Value;

/// How answers are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Output {
    Table,
    Json,
    Name,
}

impl Output {
    pub(crate) fn of(arguments: &ArgMatches) -> Self {
        match arguments.try_get_one::<String>("output").ok().flatten().map(String::as_str) {
            Some("json") => Self::Json,
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
        "task" => &["id", "kind", "name", "state", "progress", "created_at"],
        "trust" => &["id", "provider", "robot", "audience"],
        "user" => &["name", "email", "disabled", "last_used_at"],
        _ => &[],
    }
}

/// What the first steps are.
pub(crate) const START: &str = "\
Start with:
  berthctl login https://registry.example.com --user ada
  berthctl namespace create --name team
  berthctl robot create --name ci --grant role=developer,namespace=team
  berthctl repository list
Each noun and each verb has its own --help.";

/// Examples of a command; empty: none.
pub(crate) fn examples(operation: &str) -> &'static str {
    match operation {
        "login" => {
            "Examples:
  berthctl login https://registry.example.com --user ada
  printf %s \"$PASSWORD\" | berthctl login http://localhost:5000 --user admin --password-file -"
        }
        "namespaces.create" => {
            "Examples:
  berthctl namespace create --name team --description 'The team'"
        }
        "robots.create" => {
            "Examples:
  berthctl robot create --name ci --grant role=developer,namespace=team
  berthctl robot create --name nightly --grant role=reader --expires-at 2027-01-31T00:00:00Z"
        }
        "robots.add_secret" => {
            "Examples:
  berthctl robot add-secret ci
  berthctl robot list-secrets ci
  berthctl robot delete-secret ci 01KQ…"
        }
        "grants.create" => {
            "Examples:
  berthctl grant create --principal user:ada --role maintainer --namespace team
  berthctl grant create --principal group:crew --role reader --repository team/app"
        }
        "repositories.update" => {
            "Examples:
  berthctl repository update team/app --immutable-tags
  berthctl repository update team/app --visibility public --no-summary"
        }
        "tags.delete" => {
            "Examples:
  berthctl tag delete team/app v1"
        }
        "tags.put" => {
            "Examples:
  berthctl tag put team/app stable --digest sha256:…"
        }
        "audit.list" => {
            "Examples:
  berthctl audit list --repository team/app --limit 20
  berthctl audit list --type login.refused --from 2026-01-31T00:00:00Z"
        }
        "instances.get_usage" => {
            "Examples:
  berthctl instance get-usage"
        }
        _ => "",
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

fn name(noun: &str, item: &Value) -> String {
    let first = match noun {
        "repository" => "path",
        "artifact" => "digest",
        _ => "name",
    };
    [first, "id"].iter().map(|field| cell(&item[*field])).find(|text| !text.is_empty()).unwrap_or_default()
}

fn table(header: &[String], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).chain(header.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width.saturating_sub(cell.chars().count()))));
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
        Output::Name => items.iter().for_each(|item| crate::print(&name(noun, item))),
        Output::Table => {
            let mut known: Vec<String> = columns(noun).iter().map(|&column| column.to_owned()).collect();
            // A list of something else than the noun has columns of its own.
            let fits = |item: &Value| known.iter().any(|column| !item[column.as_str()].is_null());
            if let Some(first) = items.first().filter(|item| known.is_empty() || !fits(item)) {
                known = first.as_object().into_iter().flat_map(|fields| fields.keys().cloned()).collect();
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
    }
}
