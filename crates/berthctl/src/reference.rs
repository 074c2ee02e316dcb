//! The reference page: every command, as its help has it.

use std::fmt::Write;

use clap::{Arg, Command};

/// Markdown keeps pipes and line ends for itself.
fn line(text: &str) -> String {
    text.replace('|', "\\|").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn name(arg: &Arg) -> String {
    let value = arg.get_value_names().and_then(<[_]>::first).map(clap::builder::Str::as_str);
    let takes = arg.get_action().takes_values();
    match (arg.get_long(), value.filter(|_| takes)) {
        (Some(long), Some(value)) if arg.is_require_equals_set() => format!("--{long}[={value}]"),
        (Some(long), Some(value)) => format!("--{long} {value}"),
        (Some(long), None) => format!("--{long}"),
        (None, value) => value.unwrap_or(arg.get_id().as_str()).to_owned(),
    }
}

fn arguments(page: &mut String, command: &Command) -> std::fmt::Result {
    let own = command.get_arguments().filter(|arg| !arg.is_global_set() && arg.get_id() != "help");
    let mut own = own.peekable();
    if own.peek().is_none() {
        return Ok(());
    }
    writeln!(page, "| argument | |\n|---|---|")?;
    for arg in own {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let choices = arg.get_possible_values();
        let is_choice =
            arg.get_action().takes_values() && !choices.is_empty() && !arg.is_require_equals_set();
        let choices = choices.iter().map(|choice| format!("`{}`", choice.get_name())).collect::<Vec<_>>();
        let choices = if is_choice { format!(" ({})", choices.join(", ")) } else { String::new() };
        writeln!(page, "| `{}` | {}{choices} |", line(&name(arg)), line(&help))?;
    }
    writeln!(page)
}

fn examples(page: &mut String, command: &Command) -> std::fmt::Result {
    let Some(examples) = command.get_after_help().map(ToString::to_string) else { return Ok(()) };
    for line in examples.lines().skip(1) {
        writeln!(page, "    {}", line.trim())?;
    }
    writeln!(page)
}

fn section(page: &mut String, path: &str, command: &Command) -> std::fmt::Result {
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        let path = format!("{path} {}", verb.get_name());
        writeln!(page, "### {path}\n")?;
        let about = verb.get_long_about().or(verb.get_about()).map(ToString::to_string).unwrap_or_default();
        writeln!(page, "{}\n", about.trim())?;
        arguments(page, verb)?;
        examples(page, verb)?;
    }
    Ok(())
}

fn page(root: &Command) -> Result<String, std::fmt::Error> {
    let mut page = String::new();
    writeln!(
        page,
        "# Reference of berthctl\n\nEvery command, as its `--help` has it; made by `berthctl reference`. \
         [berthctl](berthctl.md) says what it is and how it is used.\n\nOn every command:\n\n| argument | |\n|---|---|"
    )?;
    for arg in root.get_arguments().filter(|arg| arg.is_global_set()) {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let from = arg.get_env().map(|name| format!("; else `{}`", name.display())).unwrap_or_default();
        writeln!(page, "| `{}` | {}{from} |", line(&name(arg)), line(&help))?;
    }
    writeln!(page)?;
    for noun in root.get_subcommands().filter(|noun| noun.get_name() != "help" && !noun.is_hide_set()) {
        writeln!(page, "## {}\n", noun.get_name())?;
        let about = noun.get_long_about().or(noun.get_about()).map(ToString::to_string).unwrap_or_default();
        writeln!(page, "{}\n", about.trim())?;
        arguments(&mut page, noun)?;
        examples(&mut page, noun)?;
        section(&mut page, &format!("berthctl {}", noun.get_name()), noun)?;
    }
    Ok(page)
}

/// The page about all commands.
pub(crate) fn of(mut root: Command) -> String {
    root.build();
    page(&root).unwrap_or_default()
}
