//! What gathers, what is lost, and what is told.

use std::{sync::atomic::AtomicBool, time::Duration};

use berth_proto::instance_manager::{
    ExportAuditRequest, ListAuditRequest, ListAuditResponse, RecordAuditRequest, RecordAuditResponse,
    audit_client::AuditClient,
    audit_server::{Audit as Trail, AuditServer},
};
use berth_service::{Channel, Clock as _, ManualClock, Tasks};
use tonic::{Request, Response, Status};

use super::*;

fn ids() -> Ids {
    Ids::seeded(7, ManualClock::at(Timestamp::from_seconds(1_700_000_000)))
}

fn origin(ids: &Ids) -> Origin {
    Origin { id: ids.ulid(), address: Some(IpAddr::from([192, 0, 2, 1])) }
}

#[test]
fn equal_things_of_a_minute_are_one_entry() {
    let (ids, audit) = (ids(), Audit::new("system:gateway", 0, &mut Registry::default()));
    let instance = InstanceId::new(ids.ulid());
    let pull = Seen::new(instance, AuditKind::ArtifactPulled, "anonymous", "anonymous");
    let at = |seconds: i64| Timestamp::from_seconds(1_700_000_040 + seconds);
    for second in 0..60 {
        audit.saw(&pull, origin(&ids), at(second));
    }
    audit.saw(&pull, origin(&ids), at(60));
    audit.saw(&Seen { tag: "v1", ..pull }, origin(&ids), at(1));
    audit.saw(&Seen { principal: "user:a", ..pull }, origin(&ids), at(1));
    let mut taken = audit.take(&ids, at(61));
    taken.sort_by_key(|entry| -entry.count);
    let counts: Vec<i64> = taken.iter().map(|entry| entry.count).collect();
    assert_eq!(counts, [60, 1, 1, 1]);
    assert_eq!((taken[0].occurred_at, taken[0].last_at), (at(0).0, at(59).0));
    assert_eq!(taken[0].address, "192.0.2.1");
    assert!(audit.take(&ids, at(62)).is_empty());
}

#[test]
fn memory_is_bounded_and_what_is_lost_is_told() {
    let (ids, audit) = (ids(), Audit::new("system:gateway", FULL, &mut Registry::default()));
    let (one, other) = (InstanceId::new(ids.ulid()), InstanceId::new(ids.ulid()));
    let now = Timestamp::from_seconds(1_700_000_000);
    for n in 0..FULL + 30 {
        let tag = n.to_string();
        let seen = Seen::new(one, AuditKind::ArtifactPulled, "anonymous", "anonymous");
        audit.saw(&Seen { tag: &tag, ..seen }, origin(&ids), now);
    }
    // What is here already goes on counting.
    let seen = Seen::new(one, AuditKind::ArtifactPulled, "anonymous", "anonymous");
    audit.saw(&Seen { tag: "0", ..seen }, origin(&ids), now);
    audit.saw(&Seen { instance: other, ..seen }, origin(&ids), now);
    let taken = audit.take(&ids, now);
    let lost: HashMap<&str, i64> = taken
        .iter()
        .filter(|entry| entry.r#type == "audit.lost")
        .map(|entry| (entry.instance_id.as_str(), entry.count))
        .collect();
    assert_eq!(lost, HashMap::from([(one.to_string().as_str(), 30), (other.to_string().as_str(), 1)]));
    assert_eq!(taken.len(), FULL + 2);
    assert_eq!(audit.dropped.get(), 31);
    // While these are sent nothing more fits.
    audit.saw(&seen, origin(&ids), now);
    assert_eq!(audit.dropped.get(), 32);
}

#[test]
fn a_flood_of_refusals_from_many_addresses_is_few_entries() {
    let (ids, audit) = (ids(), Audit::new("system:gateway", 0, &mut Registry::default()));
    let now = Timestamp::from_seconds(1_700_000_000);
    let seen = Seen::new(InstanceId::new(ids.ulid()), AuditKind::CallRefused, "", "bearer");
    for n in 0..100_000_u32 {
        let address = Some(IpAddr::from(n.to_be_bytes()));
        audit.saw(&seen, Origin { id: ids.ulid(), address }, now);
    }
    let taken = audit.take(&ids, now);
    assert!(taken.len() <= SHARDS * (STRANGERS + 1), "{}", taken.len());
    assert_eq!(taken.iter().map(|entry| entry.count).sum::<i64>(), 100_000);
}

#[derive(Clone, Debug, Default)]
struct Shaky {
    away: Arc<AtomicBool>,
    told: Arc<Mutex<HashMap<String, AuditEntry>>>,
}

#[tonic::async_trait]
impl Trail for Shaky {
    async fn record_audit(
        &self,
        request: Request<RecordAuditRequest>,
    ) -> Result<Response<RecordAuditResponse>, Status> {
        for entry in request.into_inner().entries {
            self.told.lock().insert(entry.event_id.clone(), entry);
        }
        // Recorded, and nobody hears of it.
        if self.away.load(Ordering::SeqCst) {
            return Err(Status::unavailable("away"));
        }
        Ok(Response::new(RecordAuditResponse::default()))
    }

    async fn list_audit(&self, _: Request<ListAuditRequest>) -> Result<Response<ListAuditResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    type ExportAuditStream = futures::stream::Empty<Result<AuditEntry, Status>>;

    async fn export_audit(
        &self,
        _: Request<ExportAuditRequest>,
    ) -> Result<Response<Self::ExportAuditStream>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tokio::test(start_paused = true)]
async fn everything_is_told_once_however_often_it_is_sent() {
    let (ids, mut registry, shaky) = (ids(), Registry::default(), Shaky::default());
    let (audit, tasks) = (Audit::new("system:gateway", 0, &mut registry), Tasks::new());
    let clock = ManualClock::at(Timestamp::from_seconds(1_700_000_000));
    let client = AuditClient::new(Channel::local("audit", AuditServer::new(shaky.clone())));
    let clock_of_sender = Arc::clone(&clock);
    audit.send(client, move || clock_of_sender.now(), ids.clone(), &tasks);
    let pull = Seen::new(InstanceId::new(ids.ulid()), AuditKind::ArtifactPulled, "anonymous", "anonymous");
    shaky.away.store(true, Ordering::SeqCst);
    for n in 0..700 {
        let tag = n.to_string();
        audit.saw(&Seen { tag: &tag, ..pull }, origin(&ids), clock.now());
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(audit.sending.load(Ordering::Relaxed), 700);
    shaky.away.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(audit.sending.load(Ordering::Relaxed), 0);
    // A process that stops sends the rest.
    audit.saw(&pull, origin(&ids), clock.now());
    assert!(tasks.stop(Duration::from_secs(10)).await);
    let told = shaky.told.lock();
    assert_eq!(told.len(), 701);
    assert_eq!(told.values().map(|entry| entry.count).sum::<i64>(), 701);
}
