//! Lists of namespaces and repositories for people: what may be seen, in order, page by page.

use berth_database::{Database, Engine, Statement, args};
use berth_oci::{ErrorCode, Problem};
use berth_proto::metadata::{
    ListNamespacesRequest, ListRepositoryEntriesRequest, ListRepositoryEntriesResponse, ReadableSet,
    RepositoryEntry, UpdateRepositoryRequest, repositories_server::Repositories,
};
use berth_service::{ManualClock, Timestamp};
use tonic::Request;

use super::{World, answer, both, on_both_engines, refusal};
use crate::MIGRATIONS;

on_both_engines!(
    every_list_is_what_it_says,
    a_repository_is_found_as_long_as_it_is_listed,
    what_is_public_is_shown_to_all,
    a_position_is_of_its_list,
    namespaces_are_listed_by_grants,
);

impl World {
    async fn entries(
        &self,
        request: ListRepositoryEntriesRequest,
    ) -> Result<ListRepositoryEntriesResponse, Problem> {
        let request = ListRepositoryEntriesRequest { instance_id: self.instance.to_string(), ..request };
        answer(self.service.list_repository_entries(Request::new(request)).await)
    }

    /// All pages, one after the other.
    async fn all_entries(&self, request: &ListRepositoryEntriesRequest) -> Vec<RepositoryEntry> {
        let mut found = Vec::new();
        let mut after = String::new();
        for _ in 0..1000 {
            let page = self.entries(ListRepositoryEntriesRequest { after, ..request.clone() }).await.unwrap();
            assert!(page.repositories.len() <= request.limit as usize);
            assert!(page.next.is_empty() || page.repositories.len() == request.limit as usize);
            found.extend(page.repositories);
            if page.next.is_empty() {
                return found;
            }
            after = page.next;
        }
        panic!("it has no end");
    }

    async fn found(&self, search: &str) -> Vec<String> {
        let request =
            ListRepositoryEntriesRequest { search: search.to_owned(), limit: 100, ..Default::default() };
        self.all_entries(&request).await.into_iter().map(|entry| entry.path).collect()
    }

    async fn make_public(&self, path: &str, public: bool) {
        let request = UpdateRepositoryRequest {
            instance_id: self.instance.to_string(),
            path: path.to_owned(),
            public: Some(public),
            ..UpdateRepositoryRequest::default()
        };
        answer(self.service.update_repository(Request::new(request)).await).unwrap();
    }
}

/// The first of the beginnings by which a search finds a path.
fn term(path: &str, search: &str) -> Option<String> {
    let marks = ['/', '-', '.', '_'];
    let starts = path.char_indices().filter(|(place, _)| *place == 0 || path[..*place].ends_with(marks));
    starts.map(|(place, _)| &path[place..]).filter(|rest| rest.starts_with(search)).min().map(str::to_owned)
}

/// Compares with what a loop over everything says.
async fn every_list_is_what_it_says(world: World) {
    let mut all = Vec::new();
    let mut namespaces = Vec::new();
    for name in ["team", "team-a", "app", "zeta"] {
        namespaces.push(world.make_namespace(name, |_| {}).await.unwrap().id);
        for number in 0..9 {
            let path = match number % 3 {
                0 => format!("{name}/app-server{number}"),
                1 => format!("{name}/web.app_{number}"),
                _ => format!("{name}/team/{number}"),
            };
            let mut made = world.make_repository(&path).await.unwrap();
            if number % 4 == 0 {
                world.make_public(&path, true).await;
                made.public = true;
            }
            all.push(made);
        }
    }
    let some: Vec<String> = all.iter().step_by(5).map(|entry| entry.id.clone()).collect();
    let readables = [
        None,
        Some(ReadableSet { everything: true, ..ReadableSet::default() }),
        Some(ReadableSet::default()),
        Some(ReadableSet { namespace_ids: namespaces[1..3].to_vec(), ..ReadableSet::default() }),
        Some(ReadableSet {
            namespace_ids: namespaces[..1].to_vec(),
            repository_ids: some,
            ..ReadableSet::default()
        }),
    ];
    let mut lists = 0;
    for readable in readables {
        for (namespace, search, visibility, order, limit) in combinations() {
            let request = ListRepositoryEntriesRequest {
                readable: readable.clone(),
                namespace: namespace.to_owned(),
                search: search.to_owned(),
                visibility: visibility.to_owned(),
                order: order.to_owned(),
                limit,
                ..ListRepositoryEntriesRequest::default()
            };
            let may_read = |entry: &&RepositoryEntry| {
                entry.public
                    || readable.as_ref().is_none_or(|set| {
                        set.everything
                            || set.namespace_ids.contains(&entry.namespace_id)
                            || set.repository_ids.contains(&entry.id)
                    })
            };
            let fits = |entry: &&RepositoryEntry| {
                (namespace.is_empty() || entry.path.starts_with(&format!("{namespace}/")))
                    && (visibility.is_empty() || (visibility == "public") == entry.public)
                    && (search.is_empty() || term(&entry.path, search).is_some())
            };
            let mut expected: Vec<_> = all.iter().filter(may_read).filter(fits).collect();
            expected.sort_by_key(|entry| match (search, order) {
                ("", "-created_at") => (String::new(), String::new()),
                ("", _) => (entry.path.clone(), String::new()),
                _ => (term(&entry.path, search).unwrap(), entry.id.clone()),
            });
            if order == "-created_at" {
                expected.sort_by(|one, other| other.id.cmp(&one.id));
            }
            let expected: Vec<&str> = expected.into_iter().map(|entry| entry.path.as_str()).collect();
            let found = world.all_entries(&request).await;
            let found: Vec<&str> = found.iter().map(|entry| entry.path.as_str()).collect();
            assert_eq!(found, expected, "{request:?}");
            lists += 1;
        }
    }
    assert_eq!(lists, 5 * 4 * 3 * (2 + 4) * 2);
}

fn combinations() -> Vec<(&'static str, &'static str, &'static str, &'static str, u32)> {
    let mut all = Vec::new();
    for namespace in ["", "team", "zeta", "none"] {
        for visibility in ["", "public", "private"] {
            for (search, order) in [
                ("", "name"),
                ("", "-created_at"),
                ("app", ""),
                ("team", ""),
                ("team/app-s", ""),
                ("none", ""),
            ] {
                for limit in [4, 100] {
                    all.push((namespace, search, visibility, order, limit));
                }
            }
        }
    }
    all
}

async fn a_repository_is_found_as_long_as_it_is_listed(world: World) {
    world.start("team/app-server").await.unwrap();
    assert!(world.found("serv").await.is_empty(), "nothing was pushed yet");
    world.image("team/app-server", "a", &["v1"]).await;
    world.image("team/app-server", "b", &["v2"]).await;
    for search in ["team", "app-s", "serv", "team/app", "TEAM/App-Server", "/team", "team/app-server"] {
        assert_eq!(world.found(search).await, ["team/app-server"], "{search}");
    }
    for search in ["eam", "erver", "team/server", "app server", "%", "team/app-server1"] {
        assert!(world.found(search).await.is_empty(), "{search}");
    }
    world.remove("team/app-server").await.unwrap();
    assert!(world.found("serv").await.is_empty());
    assert_eq!(world.count(&both("SELECT count(*) FROM repository_terms")).await, 0);
    world.make_repository("team/app-server").await.unwrap();
    assert_eq!(world.found("serv").await, ["team/app-server"]);
    let listed = world.entries(ListRepositoryEntriesRequest::default()).await.unwrap();
    assert_eq!(listed.repositories.len(), 1);
    world.remove_namespace("team").await.unwrap();
    world.drain().await;
    assert!(world.found("serv").await.is_empty());
}

async fn what_is_public_is_shown_to_all(world: World) {
    world.image("team/app", "a", &["v1"]).await;
    let nobody = |search: &str| ListRepositoryEntriesRequest {
        readable: Some(ReadableSet::default()),
        search: search.to_owned(),
        limit: 10,
        ..ListRepositoryEntriesRequest::default()
    };
    for (public, seen) in [(true, 1), (false, 0), (true, 1)] {
        world.make_public("team/app", public).await;
        assert_eq!(world.all_entries(&nobody("")).await.len(), seen);
        assert_eq!(world.all_entries(&nobody("app")).await.len(), seen);
    }
    // Another instance's ids open nothing.
    let foreign =
        World { instance: berth_model::InstanceId::new(world.metadata.ids.ulid()), ..world.clone() };
    let entry = world.all_entries(&nobody("")).await.remove(0);
    world.make_public("team/app", false).await;
    let request = ListRepositoryEntriesRequest {
        readable: Some(ReadableSet {
            everything: false,
            namespace_ids: vec![entry.namespace_id],
            repository_ids: vec![entry.id],
        }),
        limit: 10,
        ..ListRepositoryEntriesRequest::default()
    };
    assert_eq!(world.all_entries(&request).await.len(), 1);
    assert!(foreign.all_entries(&request).await.is_empty());
    let searched = ListRepositoryEntriesRequest { search: "app".into(), ..request };
    assert!(foreign.all_entries(&searched).await.is_empty());
}

async fn a_position_is_of_its_list(world: World) {
    for (second, name) in (0..).zip(["a", "b", "c"]) {
        // Ids of the same millisecond come in no order.
        world.clock.set(Timestamp::from_seconds(1_700_000_000 + second));
        world.image(&format!("team/{name}"), name, &["v1"]).await;
    }
    let list = async |search: &str, order: &str, after: &str| {
        let request = ListRepositoryEntriesRequest {
            search: search.to_owned(),
            order: order.to_owned(),
            after: after.to_owned(),
            limit: 1,
            ..ListRepositoryEntriesRequest::default()
        };
        world.entries(request).await
    };
    let by_name = list("", "", "").await.unwrap().next;
    let newest = list("", "-created_at", "").await.unwrap().next;
    let found = list("team", "", "").await.unwrap().next;
    assert_eq!(list("", "name", &by_name).await.unwrap().repositories[0].path, "team/b");
    assert_eq!(list("", "-created_at", &newest).await.unwrap().repositories[0].path, "team/b");
    assert_eq!(list("team", "", &found).await.unwrap().repositories[0].path, "team/b");
    for (search, order, after) in [
        ("", "", newest.as_str()),
        ("", "", &found),
        ("", "-created_at", &by_name),
        ("team", "", &by_name),
        ("", "", "nonsense"),
        ("", "", "name:a\0"),
    ] {
        assert_eq!(refusal(list(search, order, after).await), ErrorCode::PaginationInvalid, "{after}");
    }
    assert_eq!(refusal(list("", "size", "").await), ErrorCode::RequestInvalid);
    assert_eq!(refusal(list("team", "-created_at", "").await), ErrorCode::RequestInvalid);
    let request = ListRepositoryEntriesRequest { visibility: "secret".into(), ..Default::default() };
    assert_eq!(refusal(world.entries(request).await), ErrorCode::RequestInvalid);
}

async fn namespaces_are_listed_by_grants(world: World) {
    let mut ids = Vec::new();
    for name in ["alpha", "beta", "team", "team-a", "zeta"] {
        ids.push(world.make_namespace(name, |_| {}).await.unwrap().id);
    }
    let repository = world.make_repository("zeta/app").await.unwrap().id;
    world.make_repository("beta/open").await.unwrap();
    world.make_public("beta/open", true).await;
    let list = async |readable: Option<ReadableSet>, search: &str, after: &str| {
        let request = ListNamespacesRequest {
            instance_id: world.instance.to_string(),
            limit: 2,
            after: after.to_owned(),
            readable,
            search: search.to_owned(),
        };
        let listed = answer(world.service.list_namespaces(Request::new(request)).await).unwrap().namespaces;
        listed.into_iter().map(|namespace| namespace.name).collect::<Vec<_>>()
    };
    assert_eq!(list(None, "", "").await, ["alpha", "beta"]);
    assert_eq!(list(None, "", "team").await, ["team-a", "zeta"]);
    assert_eq!(list(None, "team", "").await, ["team", "team-a"]);
    assert_eq!(list(None, "Te", "team").await, ["team-a"]);
    assert!(list(None, "eam", "").await.is_empty());
    assert!(list(None, "\u{e9}", "").await.is_empty());
    let set = |namespace_ids: &[String], repository_ids: &[String]| {
        Some(ReadableSet {
            everything: false,
            namespace_ids: namespace_ids.to_vec(),
            repository_ids: repository_ids.to_vec(),
        })
    };
    let everything = Some(ReadableSet { everything: true, ..ReadableSet::default() });
    assert_eq!(list(everything, "", "").await, ["alpha", "beta"]);
    assert!(list(set(&[], &[]), "", "").await.is_empty());
    assert_eq!(list(set(&ids[3..4], std::slice::from_ref(&repository)), "", "").await, ["team-a", "zeta"]);
    assert_eq!(
        list(set(&ids[2..5], std::slice::from_ref(&repository)), "", "team").await,
        ["team-a", "zeta"]
    );
    assert_eq!(list(set(&ids[2..5], &[repository]), "team", "").await, ["team", "team-a"]);
}

/// Repositories from before there were terms.
async fn an_older_database_is_searched(engine: Engine) {
    let namespace = "INSERT INTO namespaces (id, instance_id, name, made_by_push, created_at) VALUES ($1, $2, $3, TRUE, 0)";
    let repository = "INSERT INTO repositories (id, instance_id, namespace_id, path, visibility, provisional, \
        created_at, updated_at, removed_at) VALUES ($1, $2, $3, $4, $5, $6, 0, 0, $7)";
    let clock = ManualClock::at(Timestamp::from_seconds(1_700_000_000));
    let ids = berth_service::Ids::random(clock.clone());
    let instance = berth_model::InstanceId::new(ids.ulid());
    let [space, listed, provisional, removed] = [0; 4].map(|_| ids.ulid().to_string());
    let of = instance.to_string();
    let rows: Vec<(Statement, _)> = vec![
        (both(namespace), args![&space, &of, "team"]),
        (both(repository), args![&listed, &of, &space, "team/web--app_x.y", "public", false, None::<i64>]),
        (both(repository), args![&provisional, &of, &space, "team/coming", "private", true, None::<i64>]),
        (
            both(repository),
            args![&removed, &of, &space, format!("~{removed}"), "private", false, Some(1_i64)],
        ),
    ];
    let upgraded = Database::upgraded_for_tests(engine, MIGRATIONS, 10, rows, clock.clone()).await;
    let Some(database) = upgraded.unwrap() else { return };
    let world = World { instance, ..World::over(database, clock) };
    for search in ["team/web", "web--a", "app_", "x.y", "y"] {
        assert_eq!(world.found(search).await, ["team/web--app_x.y"], "{search}");
    }
    assert_eq!(world.count(&both("SELECT count(*) FROM repository_terms")).await, 5);
    assert!(world.found("coming").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_sqlite_is_searched() {
    an_older_database_is_searched(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_postgresql_is_searched() {
    an_older_database_is_searched(Engine::Postgres).await;
}
