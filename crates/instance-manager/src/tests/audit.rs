//! The audit as gateways and readers have it.

use berth_proto::instance_manager::{ListAuditRequest, RecordAuditRequest};

use super::*;

fn pulled(bench: &Bench, at: i64) -> AuditEntry {
    AuditEntry {
        event_id: bench.ids.ulid().to_string(),
        instance_id: bench.instance().to_string(),
        r#type: "artifact.pulled".into(),
        principal: "anonymous".into(),
        credential: "anonymous".into(),
        address: "192.0.2.1".into(),
        request_id: "1".into(),
        result: "done".into(),
        repository: "team/app".into(),
        count: 3,
        occurred_at: at,
        last_at: at + 5,
        ..AuditEntry::default()
    }
}

fn all(bench: &Bench) -> Option<AuditFilter> {
    Some(AuditFilter { instance_id: bench.instance().to_string(), ..AuditFilter::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_gateway_gathered_is_recorded_once_and_bounded() {
    let bench = Bench::start().await;
    let now = 1_700_000_000_000_000;
    let mut hostile = pulled(&bench, now);
    hostile.repository = format!("{}é\0", "a".repeat(1023));
    let entries = vec![pulled(&bench, now - 1), hostile];
    for recorded in [2, 0] {
        let request = RecordAuditRequest { entries: entries.clone() };
        assert_eq!(bench.trail().record_audit(request).await.unwrap().into_inner().recorded, recorded);
    }
    let mut found = bench.audit().await;
    found.retain(|entry| entry.r#type == "artifact.pulled");
    found.sort_by_key(|entry| entry.occurred_at);
    assert_eq!((found[0].count, found[0].last_at, found.len()), (3, now + 4, 2));
    assert_eq!(found[1].repository, "a".repeat(1023));
    let too_many = RecordAuditRequest { entries: vec![pulled(&bench, now); 1_001] };
    let refused = bench.trail().record_audit(too_many).await.unwrap_err();
    assert_eq!(from_status(&refused).code, ErrorCode::RequestInvalid);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_lead_to_one_another_and_exports_follow() {
    let bench = Bench::start().await;
    for n in 0..250 {
        let request = RecordAuditRequest { entries: vec![pulled(&bench, 1_700_000_000_000_000 + n)] };
        bench.trail().record_audit(request).await.unwrap();
        bench.clock.advance(Duration::from_millis(1));
    }
    let (mut before, mut seen) = (String::new(), Vec::new());
    loop {
        let request = ListAuditRequest { filter: all(&bench), limit: 0, before };
        let page = bench.trail().list_audit(request).await.unwrap().into_inner();
        seen.extend(page.entries.into_iter().filter(|entry| entry.r#type == "artifact.pulled"));
        before = page.next;
        if before.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 250);
    assert!(seen.windows(2).all(|pair| pair[0].occurred_at > pair[1].occurred_at));

    let export = |after: String, limit, follow| {
        let request = ExportAuditRequest { filter: all(&bench), after, limit, follow };
        let mut trail = bench.trail();
        async move { trail.export_audit(request).await.unwrap().into_inner() }
    };
    let first: Vec<_> = export(String::new(), 10, false).await.map(|entry| entry.unwrap()).collect().await;
    assert_eq!(first.len(), 10);
    let mut rest = export(first[9].cursor.clone(), 0, true).await;
    let known = bench.audit().await;
    for entry in &known[10..] {
        assert_eq!(rest.next().await.unwrap().unwrap(), *entry);
    }
    // What is recorded now comes at the end, though it happened before.
    let late = pulled(&bench, 1_600_000_000_000_000);
    let request = RecordAuditRequest { entries: vec![late.clone()] };
    bench.trail().record_audit(request).await.unwrap();
    assert_eq!(rest.next().await.unwrap().unwrap().event_id, late.event_id);
    bench.service.streams.cancel();
    assert!(rest.next().await.is_none(), "a drain ends it");
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_deletes_what_is_older_than_what_is_kept() {
    let bench = Bench::start().await;
    let request = RecordAuditRequest { entries: vec![pulled(&bench, 1_700_000_000_000_000)] };
    bench.trail().record_audit(request).await.unwrap();
    let pulls = async || {
        let entries = bench.audit().await;
        entries.iter().filter(|entry| entry.r#type == "artifact.pulled").count()
    };
    bench.clock.advance(Duration::from_secs(365 * 86_400));
    bench.service.retention.tend().await.unwrap();
    assert_eq!(pulls().await, 1, "a year is kept");
    bench.clock.advance(Duration::from_secs(1));
    bench.service.retention.tend().await.unwrap();
    assert_eq!(pulls().await, 0);
    let entries = bench.audit().await;
    assert!(
        entries.iter().any(|entry| entry.r#type == "audit.expired" && entry.principal == "system:retention")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_says_who_was_meant_and_not_what_was_typed() {
    let bench = Bench::start().await;
    bench.user("ada").await;
    let ask = async |name: &str, secret: &str| {
        let request = IssueTokenRequest {
            instance_id: bench.instance().to_string(),
            credential: Some(Credential::Password(Password { name: name.into(), secret: secret.into() })),
            ..IssueTokenRequest::default()
        };
        bench.client.clone().issue_token(request).await
    };
    let issued = ask("ada", "password").await.unwrap().into_inner();
    assert_eq!(issued.credential, "password");
    assert!(issued.principal.starts_with("user:"));
    let told = |status: &tonic::Status, name: &str| {
        status.metadata().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let wrong = ask("ada", "wrong").await.unwrap_err();
    assert_eq!(told(&wrong, berth_proto::LOGIN_PRINCIPAL), issued.principal);
    assert_eq!(told(&wrong, berth_proto::LOGIN_CREDENTIAL), "password");
    let nobody = ask("secret typed here", "ada").await.unwrap_err();
    assert_eq!(told(&nobody, berth_proto::LOGIN_PRINCIPAL), "");
    assert!(!format!("{nobody:?}").contains("typed"));
}
