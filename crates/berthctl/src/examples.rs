//! Examples in the help, written by hand.

/// What the first steps are.
pub(crate) const START: &str = "\
Start with:
  berthctl login https://registry.example.com --user ada
  berthctl namespace create --name team
  berthctl robot create --name ci --grant role=developer,namespace=team
  berthctl repository list
Each noun and each verb has its own --help.";

/// Examples of a command, as its help shows them.
pub(crate) fn of(command: &str) -> String {
    let lines = lines(command).iter().map(|line| match line.contains("berthctl ") {
        true => format!("\n  {line}"),
        false => format!("\n  berthctl {line}"),
    });
    format!("Examples:{}", lines.collect::<String>())
}

/// Each is what comes after `berthctl`, unless something else comes first.
fn lines(command: &str) -> &'static [&'static str] {
    match command {
        "login" => &[
            "login https://registry.example.com --user ada",
            "printf %s \"$PASSWORD\" | berthctl login http://localhost:5000 --user admin --password-file -",
        ],
        "logout" => &["logout"],
        "whoami" => &["whoami", "whoami --context staging -o json"],
        "context.list" => &["context list"],
        "context.use" => &["context use registry.example.com"],
        "context.delete" => &["context delete registry.example.com"],
        "context.keyring" => &["context keyring secretservice", "context keyring file"],
        "configure-docker" => &["configure-docker", "configure-docker registry.example.com"],
        "completion" => &["completion bash > ~/.local/share/bash-completion/completions/berthctl"],
        "access_checks.create" => &[
            "access-check create --permission artifact:push --repository team/app",
            "access-check create --permission artifact:delete --principal robot:ci --namespace team",
        ],
        "artifacts.delete" => &["artifact delete team/app sha256:…"],
        "artifacts.get" => &["artifact get team/app v1"],
        "artifacts.get_config" => &["artifact get-config team/app v1 > config.json"],
        "artifacts.get_manifest" => &["artifact get-manifest team/app v1 | sha256sum"],
        "artifacts.list" => &["artifact list team/app", "artifact list team/app --tagged=false -o name"],
        "artifacts.list_history" => &["artifact list-history team/app v1"],
        "artifacts.list_referrers" => &[
            "artifact list-referrers team/app v1",
            "artifact list-referrers team/app v1 --artifact-type application/spdx+json",
        ],
        "audit.export" => {
            &["audit export --from 2026-01-01T00:00:00Z --to 2026-02-01T00:00:00Z > january.jsonl"]
        }
        "audit.list" => &[
            "audit list --repository team/app --limit 20",
            "audit list --type login.refused --from 2026-01-31T00:00:00Z",
        ],
        "deployment_tasks.get" => &["deployment-task list", "deployment-task get 01KQ… --watch"],
        "deployment_tasks.list" => &["deployment-task list --state running"],
        "documentation.get" => &["documentation get > openapi.json"],
        "editions.get" => &["edition get basic"],
        "editions.list" => &["edition list"],
        "endpoints.list" => &["endpoint list --instance acme"],
        "garbage_collection.get" => &["garbage-collection get"],
        "garbage_collection.run" => &["garbage-collection run --wait"],
        "grants.create" => &[
            "grant create --principal user:ada --role maintainer --namespace team",
            "grant create --principal group:crew --role reader --repository team/app",
        ],
        "grants.delete" => &["grant list --principal-kind user --principal ada", "grant delete 01KQ…"],
        "grants.list" => &["grant list", "grant list --principal-kind robot --principal ci"],
        "groups.add_member" => &["group add-member crew user ada"],
        "groups.create" => &["group create --name crew --description 'Who is on call'"],
        "groups.delete" => &["group delete crew"],
        "groups.delete_member" => &["group delete-member crew user ada"],
        "groups.get" => &["group get crew"],
        "groups.list" => &["group list --search cr"],
        "groups.list_members" => &["group list-members crew"],
        "groups.update" => &[
            "group update crew --description 'Who was on call' --disabled",
            "group update crew --no-description --disabled=false",
        ],
        "identity.get" => &["identity get"],
        "identity_providers.create" => &[
            "identity-provider create --name github --issuer https://token.actions.githubusercontent.com",
            "identity-provider create --name corp --issuer https://id.example.com --client-id berth --client-secret-file secret --login",
        ],
        "identity_providers.delete" => &["identity-provider delete corp"],
        "identity_providers.get" => &["identity-provider get corp"],
        "identity_providers.link_user" => &["identity-provider link-user corp ada --subject 248289761001"],
        "identity_providers.list" => &["identity-provider list"],
        "identity_providers.unlink_user" => &["identity-provider unlink-user corp ada"],
        "identity_providers.update" => &[
            "identity-provider update corp --groups-claim groups --group value=staff,group=crew",
            "identity-provider update corp --no-client-secret",
        ],
        "instances.create" => &["instance create --name acme --edition basic --region cn-hangzhou"],
        "instances.delete" => {
            &["instance delete --instance acme --wait", "instance delete --instance acme --force --wait"]
        }
        "instances.get" => &["instance get --instance acme"],
        "instances.get_usage" => &["instance get-usage"],
        "instances.list" => &["instance list"],
        "instances.set_edition" => {
            &["instance set-edition --instance acme --edition standard --add-ons namespaces=5"]
        }
        "instances.start" => &["instance start --instance acme"],
        "instances.stop" => &["instance stop --instance acme"],
        "instances.update" => {
            &["instance update --instance acme --description 'Acme Ltd' --create-on-push=false"]
        }
        "namespaces.create" => &["namespace create --name team --description 'The team'"],
        "namespaces.delete" => &["namespace delete team --wait"],
        "namespaces.get" => &["namespace get team"],
        "namespaces.list" => &["namespace list --search te"],
        "namespaces.update" => &[
            "namespace update team --default-immutable",
            "namespace update team --no-description --create-on-push=false",
        ],
        "regions.list" => &["region list"],
        "repositories.create" => {
            &["repository create --path team/app --visibility private --summary 'The app'"]
        }
        "repositories.delete" => &["repository delete team/app --wait"],
        "repositories.get" => &["repository get team/app"],
        "repositories.list" => {
            &["repository list --namespace team", "repository list --search app --visibility public -o name"]
        }
        "repositories.update" => &[
            "repository update team/app --immutable-tags",
            "repository update team/app --visibility public --no-summary",
        ],
        "robots.add_secret" => {
            &["robot add-secret ci", "robot list-secrets ci", "robot delete-secret ci 01KQ…"]
        }
        "robots.create" => &[
            "robot create --name ci --grant role=developer,namespace=team",
            "robot create --name nightly --grant role=reader --expires-at 2027-01-31T00:00:00Z",
        ],
        "robots.delete" => &["robot delete ci"],
        "robots.delete_secret" => &["robot list-secrets ci", "robot delete-secret ci 01KQ…"],
        "robots.get" => &["robot get ci"],
        "robots.list" => &["robot list"],
        "robots.list_secrets" => &["robot list-secrets ci"],
        "robots.update" => &[
            "robot update ci --expires-at 2027-01-31T00:00:00Z",
            "robot update ci --no-expires-at --disabled=false",
        ],
        "roles.create" => &[
            "role create --name releaser --scope namespace,repository --permission artifact:pull --permission repository:read",
        ],
        "roles.delete" => &["role delete releaser"],
        "roles.get" => &["role get developer"],
        "roles.list" => &["role list"],
        "roles.replace" => {
            &["role replace releaser --scope namespace --permission artifact:pull,artifact:push"]
        }
        "scrub.get" => &["scrub get"],
        "scrub.run" => &["scrub run --wait", "scrub run --unpaced"],
        "sessions.create" => &["session create --name ada --password-file password"],
        "sessions.delete" => &["session delete"],
        "storage.list" => &["storage list"],
        "storage.set" => &[
            "storage set --kind s3 --settings bucket=acme,endpoint=https://s3.example.com,access_key=AKIA… --secret-key-file key",
            "storage set --kind shared",
        ],
        "storage.set_blob_delivery" => &["storage set-blob-delivery --blob-delivery redirect"],
        "storage.set_credentials" => &["storage set-credentials --access-key AKIA… --secret-key-file key"],
        "tags.delete" => &["tag delete team/app v1"],
        "tags.get" => &["tag get team/app v1"],
        "tags.list" => &["tag list team/app", "tag list team/app --sort -updated_at --limit 5"],
        "tags.put" => &["tag put team/app stable --digest sha256:…"],
        "tasks.get" => &["task list", "task get 01KQ… --watch"],
        "tasks.list" => &["task list --state failed"],
        "temporary_tokens.create" => &["temporary-token create -o json"],
        "trusts.create" => &[
            "trust create --provider github --robot ci --audience registry.example.com --condition claim=repository,pattern=acme/app",
        ],
        "trusts.delete" => &["trust list", "trust delete 01KQ…"],
        "trusts.list" => &["trust list"],
        "users.create" => &["user create --name ada --email ada@example.com --password-file password"],
        "users.delete" => &["user delete ada"],
        "users.get" => &["user get ada"],
        "users.list" => &["user list --search ad"],
        "users.set_password" => &["user set-password ada --password-file new --current-password-file old"],
        "users.update" => {
            &["user update ada --email ada@example.com", "user update ada --no-description --disabled"]
        }
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends with what can't be had")]

    use super::*;
    use crate::{commands, document::Document};

    /// The words that a shell makes of a line, from the program to where its output goes.
    fn words(line: &str) -> Vec<String> {
        let line = &line[line.find("berthctl ").unwrap()..];
        let (mut words, mut quote) = (vec![String::new()], None);
        for c in line.chars() {
            match (c, quote) {
                (c, Some(open)) if c == open => quote = None,
                ('\'' | '"', None) => quote = Some(c),
                (' ', None) => words.push(String::new()),
                (c, _) => words.last_mut().unwrap().push(c),
            }
        }
        words.into_iter().take_while(|word| word != "|" && word != ">").collect()
    }

    #[test]
    fn every_command_has_examples_that_are_understood() {
        let document = Document::read().unwrap();
        let own =
            ["login", "logout", "whoami", "configure-docker", "completion"].map(|name| (name, vec![name]));
        let context = [
            ("context.list", vec!["context", "list"]),
            ("context.use", vec!["context", "use"]),
            ("context.delete", vec!["context", "delete"]),
            ("context.keyring", vec!["context", "keyring"]),
        ];
        let made = document.operations.iter().map(|one| (one.id, vec![one.noun, one.verb]));
        for (id, path) in own.into_iter().chain(context).chain(made) {
            let examples = of(id);
            let all: Vec<_> = examples.lines().skip(1).map(words).collect();
            assert!(!all.is_empty(), "{id} has no example");
            assert!(
                all.iter().any(|words| words[1..]
                    .starts_with(&path.iter().map(|&one| one.to_owned()).collect::<Vec<_>>())),
                "{id}: {examples}"
            );
            for words in all {
                let read = commands::command(&document).try_get_matches_from(&words);
                assert!(read.is_ok(), "{words:?}: {}", read.unwrap_err());
            }
        }
    }
}
