//! Long work, and how far it is: a bar on a terminal, lines elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::{
    client::{Call, Client},
    failure::Failure,
};

/// How often a task is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// What shows it.
enum Shown {
    Bar(ProgressBar),
    Lines(String),
}

impl Shown {
    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if bar.is_hidden() { Self::Lines(String::new()) } else { Self::Bar(bar) }
    }

    fn show(&mut self, task: &Value) {
        let text = |name: &str| task[name].as_str().unwrap_or_default();
        let (done, total) =
            (task["progress"]["done"].as_u64().unwrap_or_default(), &task["progress"]["total"]);
        let waits = match (text("message"), text("waits_until")) {
            ("", "") => String::new(),
            ("", until) => format!(" (waits until {until})"),
            (message, _) => format!(" ({message})"),
        };
        match self {
            Self::Bar(bar) => {
                let template = match total.as_u64() {
                    Some(total) => {
                        bar.set_length(total);
                        "{msg} [{bar:40}] {pos} of {len}, {elapsed}"
                    }
                    None => "{spinner} {msg} {pos}, {elapsed}",
                };
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_message(format!("{} {}{waits}", text("kind"), text("name")));
                bar.set_position(done);
                bar.tick();
            }
            Self::Lines(last) => {
                let line = match total.as_u64() {
                    Some(total) => format!("{}: {done} of {total}{waits}", text("state")),
                    None => format!("{}: {done}{waits}", text("state")),
                };
                if line != *last {
                    crate::remark(&line);
                    *last = line;
                }
            }
        }
    }
}

/// Shows how far the task at a path is until it has ended; what it is then.
pub(crate) async fn watch(client: &Client, path: &str) -> Result<Value, Failure> {
    let call = Call::get(path);
    let mut shown = Shown::new();
    loop {
        let found = client.call(&call).await?.json();
        shown.show(&found);
        match found["state"].as_str().unwrap_or_default() {
            "running" => tokio::time::sleep(LOOK).await,
            "failed" => {
                return Err(Failure::Refused {
                    detail: found["message"].as_str().unwrap_or("it failed").to_owned(),
                    code: "TASK_FAILED".to_owned(),
                    request: found["id"].as_str().unwrap_or_default().to_owned(),
                    hint: String::new(),
                });
            }
            _ => {
                if let Shown::Bar(bar) = shown {
                    bar.finish_and_clear();
                }
                return Ok(found);
            }
        }
    }
}
