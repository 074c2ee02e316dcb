//! Referrers: manifests of a repository that name another as their subject, whether that is there or not.

use std::collections::BTreeMap;

use berth_database::args;
use berth_model::RepositoryId;
use berth_oci::Digest;

use crate::{
    Metadata,
    error::Result,
    store::{self, statements as sql},
};

/// The most bytes of annotations in one page; the rest is on the next.
const MAX_PAGE_BYTES: usize = 6 * 1024 * 1024;

/// One referrer, as a list shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Referrer {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    pub(crate) size: u64,
    pub(crate) artifact_type: String,
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Metadata {
    /// A page of a subject's referrers by digest, and whether there are more.
    pub(crate) async fn list_referrers(
        &self,
        repository: RepositoryId,
        subject: &Digest,
        artifact_type: &str,
        last: Option<&Digest>,
        limit: u32,
    ) -> Result<(Vec<Referrer>, bool)> {
        let args = args![
            repository.to_string(),
            subject.to_bytes(),
            last.map(Digest::to_bytes).unwrap_or_default(),
            artifact_type,
            i64::from(limit) + 1
        ];
        let rows = self.database.read_all(&sql::LIST_REFERRERS, args).await?;
        let mut referrers = Vec::new();
        let mut bytes = 0;
        for row in rows.iter().take(limit as usize) {
            let annotations: String = row.get(4)?;
            bytes += annotations.len();
            if bytes > MAX_PAGE_BYTES && !referrers.is_empty() {
                return Ok((referrers, true));
            }
            referrers.push(Referrer {
                digest: store::digest(row, 0)?,
                media_type: row.get(1)?,
                size: store::size(row, 2)?,
                artifact_type: row.get::<Option<String>>(3)?.unwrap_or_default(),
                annotations: serde_json::from_str(&annotations).unwrap_or_default(),
            });
        }
        Ok((referrers, rows.len() > limit as usize))
    }
}
