//! The audit's gRPC server.

use std::pin::Pin;

use berth_proto::{
    instance_manager::{
        AuditEntry, ExportAuditRequest, ListAuditRequest, ListAuditResponse, RecordAuditRequest,
        RecordAuditResponse, audit_server::Audit,
    },
    to_status,
};
use futures::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::status;
use crate::{audit, metrics::Metrics, store::Store};

/// The service behind [`AuditServer`](berth_proto::instance_manager::audit_server::AuditServer).
#[derive(Clone, Debug)]
pub struct AuditApi {
    pub(crate) store: Store,
    pub(crate) metrics: Metrics,
    pub(crate) streams: CancellationToken,
}

#[tonic::async_trait]
impl Audit for AuditApi {
    async fn record_audit(
        &self,
        request: Request<RecordAuditRequest>,
    ) -> Result<Response<RecordAuditResponse>, Status> {
        let entries = request.into_inner().entries;
        let gathered = entries.len() as u64;
        let recorded = audit::record_gathered(&self.store, entries).await.map_err(status)?;
        self.metrics.audit(recorded, gathered - recorded);
        Ok(Response::new(RecordAuditResponse { recorded }))
    }

    async fn list_audit(
        &self,
        request: Request<ListAuditRequest>,
    ) -> Result<Response<ListAuditResponse>, Status> {
        audit::page(&self.store, request.into_inner()).await.map(Response::new).map_err(status)
    }

    type ExportAuditStream = Pin<Box<dyn Stream<Item = Result<AuditEntry, Status>> + Send>>;

    async fn export_audit(
        &self,
        request: Request<ExportAuditRequest>,
    ) -> Result<Response<Self::ExportAuditStream>, Status> {
        let exported = audit::export(self.store.clone(), request.into_inner(), self.streams.clone());
        let exported = exported.map_err(to_status)?.map(|entry| entry.map_err(status));
        Ok(Response::new(Box::pin(exported)))
    }
}
