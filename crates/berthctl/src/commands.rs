//! The commands of a terminal, made from the document: `berthctl <noun> <verb>`.

use clap::{Arg, ArgAction, ArgMatches, Command, builder::PossibleValuesParser, value_parser};
use clap_complete::Shell;

use crate::{
    document::{Document, Kind, Operation, Parameter},
    examples,
};

/// The heading of what every command takes.
const EVERYWHERE: &str = "On every command";

/// Where and how, on every command.
fn everywhere(command: Command) -> Command {
    command
        .arg(
            Arg::new("output")
                .long("output")
                .short('o')
                .value_name("FORM")
                .value_parser(PossibleValuesParser::new(["table", "json", "yaml", "name"]))
                .default_value("table")
                .global(true)
                .help_heading(EVERYWHERE)
                .help("How answers are written: table, json, yaml or name"),
        )
        .arg(
            Arg::new("context")
                .long("context")
                .value_name("NAME")
                .global(true)
                .help_heading(EVERYWHERE)
                .help("The context to use, instead of the current one"),
        )
        .arg(
            Arg::new("server")
                .long("server")
                .value_name("URL")
                .env("BERTH_SERVER")
                .global(true)
                .help_heading(EVERYWHERE)
                .help("The registry's URL"),
        )
        .arg(
            Arg::new("instance")
                .long("instance")
                .value_name("NAME")
                .env("BERTH_INSTANCE")
                .global(true)
                .help_heading(EVERYWHERE)
                .help("The instance, by name or id"),
        )
        .arg(
            Arg::new("plain-http")
                .long("plain-http")
                .action(ArgAction::SetTrue)
                .global(true)
                .help_heading(EVERYWHERE)
                .help("Speak without TLS to more than this machine: whoever listens reads the token"),
        )
        .arg(
            Arg::new("ca")
                .long("ca")
                .value_name("FILE")
                .env("BERTH_CA")
                .global(true)
                .help_heading(EVERYWHERE)
                .help("PEM file with authorities to trust beside the system's"),
        )
}

/// The program keeps its words as long as it runs.
fn keep(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// Texts of this list may have commas.
fn has_commas(parameter: &Parameter) -> bool {
    parameter.name == "audiences"
}

/// What a flag is for; of a list, how several are said; of what may be null, what says that.
fn help(parameter: &Parameter) -> String {
    let mut help = match parameter.nullable {
        true => parameter.help.replace("null", &format!("--no-{}", parameter.flag)),
        false => parameter.help.to_owned(),
    };
    let (before, after) = match parameter.kind {
        Kind::Secret => (format!("File with the {}; - is standard input", parameter.flag), ""),
        Kind::Texts if !has_commas(parameter) => (String::new(), "several with commas, or once for each"),
        Kind::Texts | Kind::Objects => (String::new(), "once for each"),
        _ => (String::new(), ""),
    };
    let parts = [before.as_str(), help.as_str(), after];
    help = parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ");
    if parameter.required {
        help = format!("{help} (needed)").trim_start().to_owned();
    }
    help
}

fn flag(parameter: &Parameter) -> Arg {
    let mut arg = Arg::new(parameter.name).long(parameter.flag).help(help(parameter));
    // A list is also known as the document names it.
    let whole = keep(parameter.name.replace('_', "-"));
    if whole != parameter.flag {
        arg = arg.alias(whole);
    }
    match parameter.kind {
        Kind::Switch => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_parser(value_parser!(bool))
            .value_name("BOOL"),
        Kind::Number => arg.value_parser(value_parser!(u64)).value_name("NUMBER"),
        Kind::Texts if has_commas(parameter) => arg.action(ArgAction::Append).value_name("TEXT"),
        Kind::Texts => arg.action(ArgAction::Append).value_delimiter(',').value_name("TEXT"),
        Kind::Objects => arg.action(ArgAction::Append).value_name("NAME=VALUE,…"),
        Kind::Object => arg.value_name("NAME=VALUE,…"),
        Kind::Secret => arg.long(keep(format!("{}-file", parameter.flag))).value_name("FILE"),
        Kind::Text => match parameter.choices.as_slice() {
            [] => arg.value_name("TEXT"),
            // Such as -updated_at; what is no choice is refused all the same.
            choices => arg.value_parser(PossibleValuesParser::new(choices)).allow_hyphen_values(true),
        },
    }
}

/// The flag that says null of a field.
fn no_flag(field: &Parameter) -> Arg {
    let (_, meaning) = field.help.split_once("null").unwrap_or_default();
    let meaning = meaning.trim_start_matches([':', ' ']);
    let mut letters = meaning.chars();
    let first = letters.next().map(|first| first.to_uppercase().collect::<String>());
    Arg::new(keep(format!("no:{}", field.name)))
        .long(keep(format!("no-{}", field.flag)))
        .action(ArgAction::SetTrue)
        .conflicts_with(field.name)
        .help(format!("{}{}", first.unwrap_or_default(), letters.as_str()))
}

fn body_flags(command: Command, fields: &[Parameter]) -> Command {
    let mut command = command;
    for field in fields {
        let mut arg = flag(field);
        if field.required {
            arg = arg.required_unless_present("body");
        }
        command = command.arg(arg);
        if field.nullable {
            command = command.arg(no_flag(field));
        }
    }
    command.arg(
        Arg::new("body")
            .long("body")
            .value_name("FILE")
            .help("The whole body as JSON from a file; - is standard input"),
    )
}

fn verb(operation: &Operation) -> Command {
    let mut about = operation.summary.to_owned();
    if !operation.description.is_empty() {
        about = format!("{about}\n\n{}", operation.description);
    }
    if !operation.permission.is_empty() {
        about = format!("{about}\n\nNeeds the permission {}.", operation.permission);
    }
    let mut command = Command::new(operation.verb).about(operation.summary).long_about(about);
    for part in &operation.parts {
        let value = keep(part.flag.to_uppercase());
        command = command.arg(Arg::new(part.name).required(true).value_name(value).help(part.help));
    }
    for parameter in &operation.query {
        command = command.arg(flag(parameter));
    }
    if let Some(fields) = &operation.body {
        command = body_flags(command, fields);
    }
    if operation.conditional {
        command = command.arg(
            Arg::new("if-match")
                .long("if-match")
                .value_name("VERSION")
                .help("Only if it still has this version, which get shows"),
        );
    }
    if operation.pages {
        command = command.arg(
            Arg::new("limit")
                .long("limit")
                .value_parser(value_parser!(u64))
                .value_name("NUMBER")
                .help("At most so many; all without it"),
        );
    }
    if operation.begins_task {
        let wait = Arg::new("wait").long("wait").action(ArgAction::SetTrue);
        command = command.arg(wait.help("Show how far it is until it is done"));
    }
    if matches!(operation.id, "tasks.get" | "deployment_tasks.get") {
        let watch = Arg::new("watch").long("watch").short('w').action(ArgAction::SetTrue);
        command = command.arg(watch.help("Show how far it is until it has ended"));
    }
    command.after_help(examples::of(operation.id))
}

/// What a noun is about.
fn about(noun: &str) -> &'static str {
    match noun {
        "access-check" => "Whether somebody may do something, and why",
        "artifact" => "What repositories hold: images, indexes, charts, signatures",
        "audit" => "What was done, by whom, from where",
        "deployment-task" => "Long work on the whole deployment, and how far it is",
        "documentation" => "The OpenAPI document",
        "edition" => "What instances may have",
        "endpoint" => "Where an instance is reached",
        "garbage-collection" => "What nothing needs any more",
        "grant" => "Who has which role where",
        "group" => "Groups of users and robots",
        "identity" => "Who calls",
        "identity-provider" => "Who else may say who somebody is",
        "instance" => "Tenants: their editions, their use, their life",
        "namespace" => "Namespaces of repositories",
        "region" => "Where instances may live",
        "repository" => "Repositories and their settings",
        "robot" => "Robots and their secrets",
        "role" => "What may be given",
        "scrub" => "The comparison of rows and bytes",
        "session" => "Sessions; see login and logout",
        "storage" => "Where bytes are, and how they reach clients",
        "tag" => "Names of artifacts",
        "task" => "Long work in an instance, and how far it is",
        "temporary-token" => "Tokens for an hour",
        "trust" => "Which workloads are which robot",
        "user" => "People",
        _ => "",
    }
}

/// All commands.
pub(crate) fn command(document: &Document) -> Command {
    let mut root = Command::new("berthctl")
        .about("Berth's REST API for a terminal")
        .version(env!("CARGO_PKG_VERSION"))
        .arg_required_else_help(true)
        .subcommand_required(true)
        .after_help(examples::START);
    root = everywhere(root);
    let login = Command::new("login")
        .about("Log in, and remember where")
        .long_about("Trades a name and a password for a token, which is kept in a file that only you can read. The password is not kept.")
        .arg(Arg::new("url").value_name("URL").help("Where the registry is: https://registry.example.com"))
        .arg(Arg::new("user").long("user").short('u').value_name("NAME").help("A user's name, or robot+name; asked for without it"))
        .arg(
            Arg::new("password-file")
                .long("password-file")
                .value_name("FILE")
                .help("File with the password; - is standard input; asked for without it"),
        )
        .after_help(examples::of("login"));
    root = root
        .subcommand(login)
        .subcommand(Command::new("logout").about("End the session, and forget it").after_help(examples::of("logout")))
        .subcommand(Command::new("whoami").about("Show who you are, and where").after_help(examples::of("whoami")))
        .subcommand(
            Command::new("context")
                .about("Registries and logins that are remembered")
                .subcommand_required(true)
                .arg_required_else_help(true)
                .subcommand(Command::new("list").about("List them").after_help(examples::of("context.list")))
                .subcommand(
                    Command::new("use")
                        .about("Make one the current one")
                        .arg(Arg::new("name").required(true).value_name("NAME").help("Its name, as list shows it"))
                        .after_help(examples::of("context.use")),
                )
                .subcommand(
                    Command::new("keyring")
                        .about("Keep tokens in the system's keyring, or in a file")
                        .long_about("Keeps tokens in the system's keyring, through docker-credential-PROGRAM: secretservice, pass, osxkeychain, wincred. `file` is a file that only you can read. Tokens that are there move.")
                        .arg(Arg::new("program").required(true).value_name("PROGRAM").help("What comes after docker-credential-, or `file`"))
                        .after_help(examples::of("context.keyring")),
                )
                .subcommand(
                    Command::new("delete")
                        .about("Forget one")
                        .arg(Arg::new("name").required(true).value_name("NAME").help("Its name, as list shows it"))
                        .after_help(examples::of("context.delete")),
                ),
        )
        .subcommand(
            Command::new("configure-docker")
                .about("Have docker, helm and others log in as you are here")
                .long_about("Names docker-credential-berth in docker's config.json as what knows the login of a registry. docker, helm, oras, crane and cosign read it, and get the token of the session of this context. What else is in that file stays.")
                .arg(Arg::new("host").num_args(0..).value_name("HOST").help("Registries; the one of the context without it"))
                .after_help(examples::of("configure-docker")),
        )
        .subcommand(Command::new("reference").hide(true).about("Print the reference page"))
        .subcommand(
            Command::new("completion")
                .about("Print what a shell needs to complete commands")
                .arg(Arg::new("shell").required(true).value_name("SHELL").help("Which shell").value_parser(value_parser!(Shell)))
                .after_help(examples::of("completion")),
        );
    let mut nouns: Vec<&'static str> = document.operations.iter().map(|operation| operation.noun).collect();
    nouns.dedup();
    for noun in nouns {
        let mut command =
            Command::new(noun).about(about(noun)).subcommand_required(true).arg_required_else_help(true);
        let many: String = match noun.strip_suffix('y') {
            Some(stem) if noun != "identity" => format!("{stem}ies"),
            _ => format!("{noun}s"),
        };
        command = command.alias(keep(many));
        for operation in document.operations.iter().filter(|operation| operation.noun == noun) {
            command = command.subcommand(verb(operation));
        }
        root = root.subcommand(command);
    }
    root
}

/// Prints a completion script.
pub(crate) fn complete(document: &Document, arguments: &ArgMatches) {
    let Some(shell) = arguments.get_one::<Shell>("shell") else { return };
    let mut script = Vec::new();
    clap_complete::generate(*shell, &mut command(document), "berthctl", &mut script);
    crate::print(&String::from_utf8_lossy(&script));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

    use super::*;

    /// Whether a command line is understood.
    fn parses(line: &str) -> Result<(), String> {
        let document = Document::read().unwrap();
        let words = line.split(' ').map(|word| word.trim_matches('\''));
        command(&document).try_get_matches_from(words).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn what_the_document_takes_can_be_said() {
        for line in [
            "berthctl tag list team/app --sort -updated_at",
            "berthctl robot update ci --no-expires-at",
            "berthctl identity-provider update corp --no-client-secret --no-groups-claim",
            "berthctl robot create --name ci --grants role=reader --grant role=developer,namespace=team",
            "berthctl role create --name auditor --scopes namespace,repository --permission audit:read",
            "berthctl user set-password ada --body -",
        ] {
            assert_eq!(parses(line), Ok(()), "{line}");
        }
        for (line, words) in [
            ("berthctl robot update ci --no-expires-at --expires-at 2027-01-31T00:00:00Z", "cannot be used"),
            ("berthctl tag list team/app --sort --limit", "invalid value"),
            ("berthctl user set-password ada", "--password-file"),
        ] {
            let said = parses(line).unwrap_err();
            assert!(said.contains(words), "{line}: {said}");
        }
    }

    #[test]
    fn what_may_be_null_has_a_flag_for_that() {
        let document = Document::read().unwrap();
        let whole = command(&document);
        let mut seen = 0;
        for operation in &document.operations {
            let verb =
                whole.find_subcommand(operation.noun).unwrap().find_subcommand(operation.verb).unwrap();
            for field in operation.body.iter().flatten().filter(|field| field.nullable) {
                let name = format!("no-{}", field.flag);
                assert!(
                    verb.get_arguments().any(|arg| arg.get_long() == Some(&name)),
                    "{} {name}",
                    operation.id
                );
                seen += 1;
            }
        }
        assert!(seen > 8, "{seen}");
    }

    #[test]
    fn what_every_command_takes_stands_apart_in_its_help() {
        let document = Document::read().unwrap();
        let mut whole = command(&document);
        whole.build();
        let verb = whole.find_subcommand("robot").and_then(|noun| noun.find_subcommand("update")).unwrap();
        let help = verb.clone().render_long_help().to_string();
        let (own, everywhere) = help.split_once(EVERYWHERE).unwrap();
        for flag in ["--server", "--context", "--ca", "--plain-http", "--instance", "--output"] {
            assert!(everywhere.contains(flag) && !own.contains(flag), "{flag}: {help}");
        }
        assert!(own.contains("--expires-at") && own.contains("--no-expires-at: it does not end"), "{help}");
    }
}
