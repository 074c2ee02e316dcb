//! Referrers: manifests of a repository that name another as their subject, whether that is there or not.

use berth_database::{BytesList, Row, args};
use berth_model::RepositoryId;
use berth_oci::Digest;
use berth_proto::{
    ReferrersPage,
    metadata::{ListReferrersResponse, Referrer},
};

use crate::{
    Metadata,
    error::Result,
    store::{self, statements as sql},
};

/// The most bytes of annotations in one page; the rest is on the next.
const MAX_PAGE_BYTES: u64 = 6 * 1024 * 1024;

impl Metadata {
    /// A page of a subject's referrers by digest, and whether there are more.
    pub(crate) async fn list_referrers(
        &self,
        repository: RepositoryId,
        page: ReferrersPage,
    ) -> Result<ListReferrersResponse> {
        let since = self.warm.as_ref().map(|warm| warm.since());
        let id = repository.to_string();
        let (digests, more) = self.measure(&id, &page).await?;
        let referrers = match digests.is_empty() {
            true => Vec::new(),
            false => {
                let rows =
                    self.database.read_all(&sql::READ_REFERRERS, args![id, BytesList(digests)]).await?;
                rows.iter().map(read).collect::<Result<_>>()?
            }
        };
        let listed = ListReferrersResponse { referrers, more };
        if let (Some(warm), Some(since)) = (&self.warm, since) {
            warm.keep_referrers(since, repository, page, &listed);
        }
        Ok(listed)
    }

    /// The digests of a page whose annotations fit into memory, and whether there are more referrers.
    async fn measure(&self, repository: &str, page: &ReferrersPage) -> Result<(Vec<Vec<u8>>, bool)> {
        let ReferrersPage { subject, artifact_type, last, limit } = page;
        let last = last.as_ref().map(Digest::to_bytes).unwrap_or_default();
        let mut args = args![repository, subject.to_bytes(), last, i64::from(*limit) + 1];
        let statement = if artifact_type.is_empty() {
            &sql::MEASURE_REFERRERS
        } else {
            args.push(artifact_type.into());
            &sql::MEASURE_REFERRERS_OF_TYPE
        };
        let rows = self.database.read_all(statement, args).await?;
        let mut digests = Vec::with_capacity(rows.len());
        let mut bytes = 0;
        for row in rows.iter().take(*limit as usize) {
            bytes += store::size(row, 1)?;
            if bytes > MAX_PAGE_BYTES && !digests.is_empty() {
                break;
            }
            digests.push(row.get(0)?);
        }
        let more = rows.len() > digests.len();
        Ok((digests, more))
    }
}

fn read(row: &Row) -> Result<Referrer> {
    let annotations: String = row.get(4)?;
    Ok(Referrer {
        digest: store::digest(row, 0)?.to_string(),
        media_type: row.get(1)?,
        size: store::size(row, 2)?,
        artifact_type: row.get::<Option<String>>(3)?.unwrap_or_default(),
        annotations: serde_json::from_str(&annotations).unwrap_or_default(),
    })
}
