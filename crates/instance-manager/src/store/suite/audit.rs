//! The audit's rows: added once, found by every filter, gone in time, and never changed.

use std::collections::BTreeSet;

use super::*;

const DAY: i64 = 86_400_000_000;

pub(super) async fn an_entry_is_recorded_once(bench: Bench) {
    let instance = InstanceId::new(bench.ids.ulid());
    let mut events: Vec<AuditRow> = (0..20).map(|_| bench.event(instance)).collect();
    events.sort_by_key(|event| event.event_id);
    let events = Arc::new(events);
    let deliveries = (0..4).map(|n| bench.store.record(events[n * 2..].to_vec()));
    let recorded: u64 =
        futures::future::join_all(deliveries).await.into_iter().map(|outcome| outcome.unwrap()).sum();
    assert_eq!(recorded, 20);
    let mut changed = events[3].clone();
    changed.principal = "user:mallory".into();
    assert_eq!(bench.store.record(vec![changed]).await.unwrap(), 0);
    let mut found = bench.audit(instance).await;
    found.reverse();
    assert!(found.iter().all(|row| row.recorded_at > 0));
    found.iter_mut().for_each(|row| row.recorded_at = 0);
    assert_eq!(found, **events);
    assert!(bench.audit(InstanceId::new(bench.ids.ulid())).await.is_empty());
}

/// Some entries of two instances, over three months, with few different texts.
async fn recorded(bench: &Bench, instances: &[InstanceId; 2]) -> Vec<AuditRow> {
    let pick = |texts: &[&str]| {
        let index = usize::try_from(bench.ids.below(texts.len() as u64)).unwrap();
        texts[index].to_owned()
    };
    let mut rows = Vec::new();
    for _ in 0..400 {
        let instance = instances[usize::try_from(bench.ids.below(2)).unwrap()];
        let mut row = bench.event(instance);
        row.kind = pick(&["artifact.pushed", "artifact.pulled", "namespace.created"]);
        row.principal = pick(&["user:a", "user:b", "anonymous"]);
        row.result = pick(&["done", "done", "denied"]);
        row.request_id = pick(&["1", "2", "3", "4"]);
        row.repository =
            pick(&["team/app", "team/app2", "team0/app", "team", "team-a/app", "tea/m", "", "team/"]);
        row.repository_id = pick(&["R1", "R2", ""]);
        if row.kind == "namespace.created" {
            (row.subject, row.name) = ("namespace:N1".into(), pick(&["team", "other"]));
        }
        row.count = 1 + i64::try_from(bench.ids.below(3)).unwrap();
        row.occurred_at = 1_690_000_000_000_000 + i64::try_from(bench.ids.below(40)).unwrap() * 2 * DAY;
        row.last_at = row.occurred_at + 3;
        rows.push(row);
    }
    for part in rows.chunks(70) {
        assert_eq!(bench.store.record(part.to_vec()).await.unwrap(), part.len() as u64);
    }
    rows.sort_by_key(|row| (row.occurred_at, row.event_id));
    rows
}

fn random_filter(bench: &Bench, instance: InstanceId) -> AuditFilter {
    let maybe = |text: &str| if bench.ids.below(4) == 0 { text.to_owned() } else { String::new() };
    let mut filter = AuditFilter::all(instance);
    filter.principal = maybe("user:a");
    filter.kind = maybe("artifact.pulled");
    filter.repository = maybe("team/app");
    filter.repository_id = maybe("R1");
    filter.request_id = maybe("2");
    filter.result = maybe("denied");
    filter.namespace = maybe("team");
    if bench.ids.below(2) == 0 {
        filter.from = 1_690_000_000_000_000 + i64::try_from(bench.ids.below(20)).unwrap() * 2 * DAY;
    }
    if bench.ids.below(2) == 0 {
        filter.to = 1_690_000_000_000_000 + i64::try_from(bench.ids.below(40)).unwrap() * 2 * DAY;
    }
    filter
}

/// What the documentation says of a filter, once more.
fn is_meant(filter: &AuditFilter, row: &AuditRow) -> bool {
    let pairs = [
        (&filter.principal, &row.principal),
        (&filter.kind, &row.kind),
        (&filter.repository, &row.repository),
        (&filter.repository_id, &row.repository_id),
        (&filter.request_id, &row.request_id),
        (&filter.result, &row.result),
    ];
    let within = row.repository.split_once('/').is_some_and(|(namespace, _)| namespace == filter.namespace);
    let itself = row.subject.starts_with("namespace:") && row.name == filter.namespace;
    row.instance == filter.instance
        && (filter.from..filter.to).contains(&row.occurred_at)
        && pairs.iter().all(|(wanted, found)| wanted.is_empty() || wanted == found)
        && (filter.namespace.is_empty() || within || itself)
}

fn ids<'a>(rows: impl IntoIterator<Item = &'a AuditRow>) -> Vec<EventId> {
    rows.into_iter().map(|row| row.event_id).collect()
}

pub(super) async fn pages_are_those_of_the_reference(bench: Bench) {
    let instances = [InstanceId::new(bench.ids.ulid()), InstanceId::new(bench.ids.ulid())];
    let rows = recorded(&bench, &instances).await;
    for _ in 0..80 {
        let filter = random_filter(&bench, instances[0]);
        let expected = ids(rows.iter().rev().filter(|row| is_meant(&filter, row)));
        let limit = 1 + i64::try_from(bench.ids.below(60)).unwrap();
        let (mut found, mut before) = (Vec::new(), None);
        loop {
            let page = bench.store.audit_page(&filter, before, limit).await.unwrap();
            let Some(last) = page.last() else { break };
            before = Some(Cursor { at: last.occurred_at, event: last.event_id });
            found.extend(ids(&page));
        }
        assert_eq!(found, expected, "{filter:?}");
    }
}

/// On SQLite; PostgreSQL chooses by what it knows of the rows.
pub(super) async fn every_page_has_its_index(bench: Bench) {
    if bench.database.engine() == Engine::Postgres {
        return;
    }
    for (name, statement, index) in audit_statements::PAGES {
        let text: &'static str = format!("EXPLAIN QUERY PLAN {}", statement.sqlite).leak();
        let explain = berth_database::Statement { sqlite: text, postgres: text };
        let none = || vec![berth_database::Arg::Text(None); 14];
        let rows = bench.database.read_all(&explain, none()).await.unwrap();
        let steps: Vec<String> = rows.iter().map(|row| row.get(3).unwrap()).collect();
        let found =
            steps.len() == 1 && steps[0].contains(&format!("USING INDEX {index} (instance_id=? AND "));
        assert!(found && steps[0].contains("occurred_at"), "{name}: {steps:?}");
    }
}

pub(super) async fn an_export_is_complete_and_goes_on_where_it_was(bench: Bench) {
    let instances = [InstanceId::new(bench.ids.ulid()), InstanceId::new(bench.ids.ulid())];
    let rows = recorded(&bench, &instances).await;
    for _ in 0..20 {
        let filter = random_filter(&bench, instances[1]);
        let expected: BTreeSet<EventId> =
            ids(rows.iter().filter(|row| is_meant(&filter, row))).into_iter().collect();
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let step = bench.store.export_audit(&filter, after, 30).await.unwrap();
            found.extend(ids(&step.rows));
            after = step.after;
            if step.is_end && step.settled > step.now.min(i64::MAX - 1) - 1_000_000 {
                // What was recorded last has settled, or everything is found.
                if found.len() >= expected.len() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        assert_eq!(found.len(), expected.len(), "{filter:?}");
        assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), expected, "{filter:?}");
    }
}

pub(super) async fn old_entries_go_and_nothing_else(bench: Bench) {
    let instances = [InstanceId::new(bench.ids.ulid()), InstanceId::new(bench.ids.ulid())];
    let rows = recorded(&bench, &instances).await;
    let moment = Timestamp(1_690_000_000_000_000 + 40 * DAY);
    let entry = || expired(EventId::new(bench.ids.ulid()), InstanceId::new(bench.ids.ulid()));
    let mut steps = 0;
    while bench.store.expire_audit(moment, 50, entry()).await.unwrap() {
        steps += 1;
    }
    let old = rows.iter().filter(|row| row.occurred_at < moment.0).count();
    assert_eq!(steps, old.div_ceil(50), "by bounded steps");
    for instance in instances {
        let expected =
            ids(rows.iter().rev().filter(|row| row.instance == instance && row.occurred_at >= moment.0));
        assert_eq!(ids(&bench.audit(instance).await), expected);
    }
}

/// On PostgreSQL rows lie in a partition for each month; on SQLite there is one table.
pub(super) async fn recording_never_waits_for_a_month(bench: Bench) {
    let instance = InstanceId::new(bench.ids.ulid());
    // August and September 2001, and after.
    let moment = |days: i64| Timestamp(997_000_000_000_000 + days * DAY);
    let mut rows = Vec::new();
    for days in [0, 10, 31, 70] {
        let mut row = bench.event(instance);
        (row.occurred_at, row.last_at) = (moment(days).0, moment(days).0);
        bench.store.record(vec![row.clone()]).await.unwrap();
        rows.push(row);
    }
    // What strayed moves into its month, and comes no second time.
    let is_apart = bench.database.engine() == Engine::Postgres;
    assert_eq!(bench.store.make_audit_month(moment(3)).await.unwrap(), is_apart);
    assert!(!bench.store.make_audit_month(moment(4)).await.unwrap());
    assert_eq!(bench.store.record(rows.clone()).await.unwrap(), 0);
    assert_eq!(bench.audit(instance).await.len(), 4);
    // A month goes whole and not before all of it is old; what strays still goes row by row.
    let entry = expired(EventId::new(bench.ids.ulid()), InstanceId::new(bench.ids.ulid()));
    let home = entry.instance;
    let mut steps = 0;
    while bench
        .store
        .expire_audit(moment(5), 10, AuditRow { event_id: EventId::new(bench.ids.ulid()), ..entry.clone() })
        .await
        .unwrap()
    {
        steps += 1;
    }
    let (left, at_once) = if is_apart { (4, 0) } else { (3, 1) };
    assert_eq!((bench.audit(instance).await.len(), steps), (left, at_once));
    while bench
        .store
        .expire_audit(moment(40), 10, AuditRow { event_id: EventId::new(bench.ids.ulid()), ..entry.clone() })
        .await
        .unwrap()
    {}
    assert_eq!(ids(&bench.audit(instance).await), ids(&rows[3..]));
    let said = bench.audit(home).await;
    assert!(said.iter().all(|entry| entry.kind == "audit.expired"));
    assert_eq!(said.iter().any(|entry| entry.name == "2001-08"), is_apart);
}

#[test]
fn nothing_changes_what_was_recorded() {
    let pages = audit_statements::PAGES.iter().map(|(name, statement, _)| (*name, *statement));
    let named = sql::ALL.iter().chain(audit_statements::ALL).copied().chain(pages);
    for (name, statement) in named {
        for text in [statement.sqlite, statement.postgres] {
            let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            let touches = words.windows(2).find(|pair| {
                let table = pair[1] == "audit" || pair[1].starts_with("audit_");
                table
                    && matches!(pair[0], "UPDATE" | "FROM" | "TABLE" | "INTO")
                    && !text.starts_with("SELECT")
            });
            let fine = match name {
                "ADD" => text.starts_with("INSERT INTO audit ") && !text.contains("DO UPDATE"),
                "DROP_OLD" => {
                    text.contains("WHERE occurred_at < $1") || text.contains("audit_drop_strays($1, $2)")
                }
                _ => touches.is_none() && !(text.contains("audit") && text.contains("UPDATE")),
            };
            assert!(fine, "{name}: {text}");
        }
    }
    // Nor does a statement that is written elsewhere.
    let migration = include_str!("../../../../../migrations/instance-manager/postgres/0007_audit.sql");
    assert!(!migration.contains("UPDATE audit"));
}
