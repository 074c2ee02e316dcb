//! Examples in the help, written by hand.

/// What the first steps are.
pub(crate) const START: &str = "\
Start with:
  berthctl login https://registry.example.com --user ada
  berthctl namespace create --name team
  berthctl robot create --name ci --grant role=developer,namespace=team
  berthctl repository list
Each noun and each verb has its own --help.";

/// Examples of a command; empty: none.
pub(crate) fn of(operation: &str) -> &'static str {
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
        "configure-docker" => {
            "Examples:
  berthctl configure-docker
  berthctl configure-docker registry.example.com"
        }
        "context.keyring" => {
            "Examples:
  berthctl context keyring secretservice
  berthctl context keyring file"
        }
        "tasks.get" => {
            "Examples:
  berthctl task list
  berthctl task get 01KQ… --watch"
        }
        "deployment_tasks.get" => {
            "Examples:
  berthctl deployment-task list
  berthctl deployment-task get 01KQ… --watch"
        }
        "garbage_collection.run" => {
            "Examples:
  berthctl garbage-collection run --wait"
        }
        "instances.delete" => {
            "Examples:
  berthctl instance delete --instance acme --force --wait"
        }
        "namespaces.delete" => {
            "Examples:
  berthctl namespace delete team --wait"
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
