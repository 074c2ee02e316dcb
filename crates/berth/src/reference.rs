//! The configuration reference, from the types of the configuration.

use serde_json::Value;

use crate::config::Config;

/// The reference in Markdown.
pub(crate) fn markdown() -> String {
    let schema = schemars::schema_for!(Config).to_value();
    let defaults = serde_json::to_value(Config::default()).unwrap_or_default();
    let mut text = String::from(
        "# Configuration\n\n\
         `berth serve --config FILE` reads one TOML file. A key may be overridden in the environment: `[listen] public`\n\
         is `BERTH__LISTEN__PUBLIC`. Flags of the command line come last. Unknown keys are refused; `berth config check`\n\
         says whether a file can be used, `berth config show` prints what will be used.\n\n\
         The administrator's password comes from `BERTH_ADMIN_PASSWORD` or from the file that\n\
         `BERTH_ADMIN_PASSWORD_FILE` names; without both, one is made at the first start and kept in the data folder.\n\n\
         This page is made by `berth config reference`.\n",
    );
    section(&mut text, "", &schema, &schema, &defaults);
    text
}

fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let reference = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
    reference.and_then(|path| root.pointer(path)).unwrap_or(schema)
}

fn section(text: &mut String, prefix: &str, root: &Value, schema: &Value, defaults: &Value) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let is_table = |property: &Value| resolve(root, property).get("properties").is_some();
    let title = if prefix.is_empty() { "Top level".to_owned() } else { format!("`[{prefix}]`") };
    let plain: Vec<_> = properties.iter().filter(|(_, property)| !is_table(property)).collect();
    if !plain.is_empty() {
        text.push_str(&format!("\n## {title}\n\n| key | default | meaning |\n|---|---|---|\n"));
    }
    for (key, property) in plain {
        let description = property.get("description").or_else(|| resolve(root, property).get("description"));
        let description = description.and_then(Value::as_str).unwrap_or_default().replace('\n', " ");
        let default = defaults.get(key).map(Value::to_string).unwrap_or_default();
        text.push_str(&format!("| `{key}` | `{default}` | {} |\n", description.replace('|', "\\|")));
    }
    for (key, property) in properties.iter().filter(|(_, property)| is_table(property)) {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        section(text, &name, root, resolve(root, property), defaults.get(key).unwrap_or(&Value::Null));
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_checked_in_reference_is_fresh() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let checked_in = std::fs::read_to_string(file).unwrap();
        assert_eq!(
            checked_in.trim_end(),
            super::markdown().trim_end(),
            "run `cargo run -- config reference > docs/configuration.md`"
        );
    }
}
