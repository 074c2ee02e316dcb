//! People in memory, by name, where only this process writes the database: a token for a known password takes no
//! statement. The database tells which rows a COMMIT changed before anybody hears of it, and they go
//! (docs/decisions/0010-warm-reads-and-files.md).

use std::sync::Arc;

use berth_database::{Changes, Database, Freshness, Since, Touched, Watched};
use berth_model::InstanceId;

use super::StoredUser;

/// The most people that are kept.
const MAX_USERS: u64 = 10_000;

const WATCHED: &[Watched] = &[Watched { table: "users", key: ("instance_id", "name") }];

/// People who were asked for. Nobody absent is kept.
#[derive(Debug)]
pub(super) struct Known {
    users: moka::sync::Cache<(InstanceId, String), StoredUser>,
    freshness: Freshness,
}

impl Known {
    /// What `database` tells of; none where others write it, too.
    pub(super) fn of(database: &Database) -> Option<Arc<Self>> {
        let known =
            Arc::new(Self { users: moka::sync::Cache::new(MAX_USERS), freshness: Freshness::default() });
        let told = Arc::clone(&known);
        database.watch(WATCHED, Arc::new(move |changes| told.apply(&changes))).then_some(known)
    }

    pub(super) fn get(&self, instance: InstanceId, name: &str) -> Option<StoredUser> {
        self.users.get(&(instance, name.to_owned()))
    }

    pub(super) fn since(&self) -> Since {
        self.freshness.since()
    }

    pub(super) fn keep(&self, since: Since, instance: InstanceId, user: &StoredUser) {
        self.freshness.keep(since, || self.users.insert((instance, user.name.clone()), user.clone()));
    }

    fn apply(&self, changes: &Changes) {
        self.freshness.forget(|| {
            let told = match changes {
                Changes::Rows(rows) => rows.iter().all(|row| self.forget(row).is_some()),
                Changes::TooMany => false,
            };
            if !told {
                self.users.invalidate_all();
            }
        });
    }

    /// None: the row can't be told from others, so that all have to go.
    fn forget(&self, Touched { key: (instance, name), .. }: &Touched) -> Option<()> {
        let instance = std::str::from_utf8(instance).ok()?.parse().ok()?;
        let name = std::str::from_utf8(name).ok()?;
        self.users.invalidate(&(instance, name.to_owned()));
        Some(())
    }
}
