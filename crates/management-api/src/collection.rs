//! Garbage collection and the comparison of rows and bytes, of the whole deployment.

use berth_model::Permission;
use berth_proto::metadata as wire;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    answer::{Accepted, Plain},
    call::Call,
    input::{Json, Nothing},
    operation::{Operation, Routes, Rule},
    problem::{Result, absent},
    tasks::BegunTask,
    values::Moment,
};

/// How collection stands. It is continuous.
#[derive(Debug, Serialize, ToSchema)]
struct Collection {
    queues: Vec<CollectionQueue>,
    /// Bytes that nothing needs any more, as far as it has looked.
    reclaimable_bytes: u64,
    /// When the last of them may go; absent: there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    reclaimable_at: Option<Moment>,
}

/// What waits to be looked at.
#[derive(Debug, Serialize, ToSchema)]
struct CollectionQueue {
    /// manifest, link, blob, session, repository, object.
    name: String,
    /// Counted to 100,000.
    depth: u64,
    /// When its first is due; absent: it is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    first_due: Option<Moment>,
}

/// A pass of the comparison of rows and bytes.
#[derive(Debug, Serialize, ToSchema)]
struct Scrub {
    number: u64,
    /// It takes its time.
    paced: bool,
    started_at: Moment,
    /// Absent: it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<Moment>,
    /// blobs, manifests, tags, objects, done.
    phase: String,
    blobs: u64,
    manifests: u64,
    objects: u64,
    bytes: u64,
    damaged: u64,
    orphans: u64,
    /// Why it can't go on just now.
    #[serde(skip_serializing_if = "Option::is_none")]
    waits_for: Option<String>,
    /// The first of what it found.
    findings: Vec<ScrubFinding>,
    more_findings: bool,
}

/// Damage, or what no row names.
#[derive(Debug, Serialize, ToSchema)]
struct ScrubFinding {
    /// missing, short, wrong_digest, unreadable, dangling, orphan.
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

/// A pass to be begun.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewScrub {
    /// As fast as it goes, and from the start.
    #[serde(default)]
    unpaced: bool,
}

pub(crate) fn add(routes: &mut Routes) {
    let (read, act) = (Rule::Needs(Permission::TaskRead), Rule::Needs(Permission::TaskUpdate));
    routes.add(
        Operation::get("/garbage-collection", "garbage_collection.get", "Show how collection stands", read),
        get,
    );
    let run =
        Operation::post("/garbage-collection/runs", "garbage_collection.run", "Collect now what may go", act)
            .describe("Nothing is due before the time for which everything is kept that was just touched. Ten at most go on at the same time.");
    routes.add(run.repeatable(), collect);
    routes.add(
        Operation::get("/scrub", "scrub.get", "Show the newest comparison of rows and bytes", read),
        scrubbed,
    );
    let run = Operation::post("/scrub", "scrub.run", "Compare rows and bytes now", act)
        .describe("At the usual pace the one that runs will do; unpaced, that is given up for it.");
    routes.add(run.repeatable(), scrub);
}

async fn get(call: Call, _: Nothing) -> Result<Plain<Collection>> {
    let found =
        call.parts.metadata.clone().collection_status(wire::CollectionStatusRequest {}).await?.into_inner();
    let queue = |queue: wire::CollectionQueue| CollectionQueue {
        name: queue.name,
        depth: queue.depth,
        first_due: queue.first_due.map(Moment),
    };
    Ok(Plain(Collection {
        queues: found.queues.into_iter().map(queue).collect(),
        reclaimable_bytes: found.reclaimable_bytes,
        reclaimable_at: found.reclaimable_at.map(Moment),
    }))
}

async fn collect(call: Call, _: Nothing) -> Result<Accepted<BegunTask>> {
    let (manager, instance_id) = (call.on_behalf(), call.caller().instance_id.clone());
    let request = wire::CollectNowRequest { manager, instance_id };
    let begun = call.parts.metadata.clone().collect_now(request).await?.into_inner();
    Ok(Accepted(BegunTask::of_deployment(begun.task_id)))
}

async fn scrubbed(call: Call, _: Nothing) -> Result<Plain<Scrub>> {
    let request = wire::ScrubStatusRequest { findings_after: 0 };
    let found = call.parts.metadata.clone().scrub_status(request).await?.into_inner();
    let pass = found.pass.ok_or_else(|| absent("pass", "yet"))?;
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let finding = |finding: wire::ScrubFinding| ScrubFinding {
        kind: finding.kind,
        object_key: some(finding.object_key),
        digest: some(finding.digest),
    };
    Ok(Plain(Scrub {
        number: pass.number,
        paced: pass.paced,
        started_at: Moment(pass.started_at),
        ended_at: pass.ended_at.map(Moment),
        phase: pass.phase,
        blobs: pass.blobs,
        manifests: pass.manifests,
        objects: pass.objects,
        bytes: pass.bytes,
        damaged: pass.damaged,
        orphans: pass.orphans,
        waits_for: some(pass.waits_for),
        findings: found.findings.into_iter().map(finding).collect(),
        more_findings: found.more,
    }))
}

async fn scrub(call: Call, Json(new): Json<NewScrub>) -> Result<Accepted<BegunTask>> {
    let (manager, instance_id) = (call.on_behalf(), call.caller().instance_id.clone());
    let request = wire::ScrubNowRequest { unpaced: new.unpaced, manager, instance_id };
    let begun = call.parts.metadata.clone().scrub_now(request).await?.into_inner();
    Ok(Accepted(BegunTask::of_deployment(begun.task_id)))
}
