//! Principals in memory, by name, where only this process writes the database: a token for a known password takes no
//! statement. The database tells which rows a COMMIT changed before anybody hears of it, and they go
//! (docs/decisions/0010-warm-reads-and-files.md).

use std::sync::Arc;

use berth_database::{Changes, Database, Freshness, Since, Touched, Watched};
use berth_model::{InstanceId, PrincipalKind};

use super::StoredPrincipal;

/// The most principals that are kept.
const MAX_PRINCIPALS: u64 = 10_000;

/// A principal is read together with its instance, whose groups and roles are part of what it may do.
const WATCHED: &[Watched] = &[
    Watched { table: "principals", key: ("instance_id", "name") },
    Watched { table: "instances", key: ("id", "name") },
];

/// Principals that were asked for. Nobody absent is kept.
#[derive(Debug)]
pub(super) struct Known {
    principals: moka::sync::Cache<(InstanceId, PrincipalKind, String), StoredPrincipal>,
    freshness: Freshness,
}

impl Known {
    /// What `database` tells of; none where others write it, too.
    pub(super) fn of(database: &Database) -> Option<Arc<Self>> {
        let known = Arc::new(Self {
            principals: moka::sync::Cache::new(MAX_PRINCIPALS),
            freshness: Freshness::default(),
        });
        let told = Arc::clone(&known);
        database.watch(WATCHED, Arc::new(move |changes| told.apply(&changes))).then_some(known)
    }

    pub(super) fn get(
        &self,
        instance: InstanceId,
        kind: PrincipalKind,
        name: &str,
    ) -> Option<StoredPrincipal> {
        self.principals.get(&(instance, kind, name.to_owned()))
    }

    pub(super) fn since(&self) -> Since {
        self.freshness.since()
    }

    pub(super) fn keep(&self, since: Since, principal: &StoredPrincipal) {
        let key = (principal.instance, principal.kind, principal.name.clone());
        self.freshness.keep(since, || self.principals.insert(key, principal.clone()));
    }

    fn apply(&self, changes: &Changes) {
        self.freshness.forget(|| {
            let told = match changes {
                Changes::Rows(rows) => rows.iter().all(|row| self.forget(row).is_some()),
                Changes::TooMany => false,
            };
            if !told {
                self.principals.invalidate_all();
            }
        });
    }

    /// None: what hangs on the row can't be told from other things, so that all have to go.
    fn forget(&self, Touched { table, key: (instance, name) }: &Touched) -> Option<()> {
        if *table != "principals" {
            return None;
        }
        let instance = std::str::from_utf8(instance).ok()?.parse().ok()?;
        let name = std::str::from_utf8(name).ok()?;
        for kind in PrincipalKind::ALL {
            self.principals.invalidate(&(instance, kind, name.to_owned()));
        }
        Some(())
    }
}
