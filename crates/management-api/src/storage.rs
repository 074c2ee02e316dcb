//! Where the bytes of an instance are, and how they reach clients.

use berth_model::Permission;
use berth_proto::instance_manager as wire;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    answer::{Done, Page, Plain},
    call::Call,
    input::{Json, Nothing},
    operation::{Operation, Routes, Rule},
    problem::{Result, invalid},
    values::{Moment, Secret},
};

/// A store that an instance has or had.
#[derive(Debug, Serialize, ToSchema)]
struct Store {
    /// Empty: the deployment's.
    id: String,
    kind: StoreKind,
    /// What is not secret of its settings.
    settings: std::collections::BTreeMap<String, Value>,
    /// Berth encrypts what it writes there.
    encrypted: bool,
    /// It takes new blobs.
    current: bool,
    created_at: Moment,
}

/// The deployment's store, a bucket or a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum StoreKind {
    Shared,
    S3,
    Directory,
}

/// Where new blobs are to go.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewStore {
    kind: StoreKind,
    /// Of a bucket: bucket, endpoint, region, prefix, access_key …; of a folder: path. docs/operating.md lists them.
    #[serde(default)]
    settings: std::collections::BTreeMap<String, Value>,
    /// What belongs to the access key in the settings.
    secret_key: Option<Secret>,
    /// Berth encrypts what it writes there.
    #[serde(default)]
    encrypted: bool,
}

/// A store by its id.
#[derive(Debug, Serialize, ToSchema)]
struct StoreId {
    /// Empty: the deployment's.
    id: String,
}

/// Other credentials for a store that is in use.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct StorageCredentials {
    /// Absent: of the store that takes new blobs.
    store_id: Option<String>,
    access_key: String,
    secret_key: Secret,
}

/// How bytes reach clients.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DeliveryChange {
    blob_delivery: BlobDelivery,
}

/// Through the registry, or from object storage by a URL that is valid for five minutes.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum BlobDelivery {
    Stream,
    Redirect,
}

pub(crate) fn add(routes: &mut Routes) {
    let all = "/instances/{instance}/storage";
    let read = Rule::Needs(Permission::StorageRead);
    routes
        .add(Operation::get(all, "storage.list", "List the stores that an instance has or had", read), list);
    // A folder is one of the server's, and an endpoint one that the server speaks to.
    let operator = Rule::NeedsInDeployment(Permission::StorageUpdate);
    let set = Operation::put(all, "storage.set", "Say where new blobs go", operator).describe(
        "For whoever runs the deployment. It is tried first; blobs that are there stay where they are.",
    );
    routes.add(set, put);
    let keys = "/instances/{instance}/storage/credentials";
    let rotate = Operation::put(
        keys,
        "storage.set_credentials",
        "Give a store other credentials",
        Rule::Needs(Permission::StorageUpdate),
    )
    .describe("They are tried first; running uploads go on with them.");
    routes.add(rotate, put_credentials);
    let delivery = "/instances/{instance}/blob-delivery";
    let deliver = Operation::put(
        delivery,
        "storage.set_blob_delivery",
        "Say how blobs reach clients",
        Rule::Needs(Permission::StorageUpdate),
    );
    routes.add(deliver, put_delivery);
}

async fn list(call: Call, _: Nothing) -> Result<Page<Store>> {
    let request = wire::ShowStorageRequest { instance_id: call.instance_id().to_owned() };
    let found = call.parts.manager.clone().show_storage(request).await?.into_inner().stores;
    let store = |store: wire::StorageEntry| Store {
        id: store.id,
        kind: match store.kind.as_str() {
            "s3" => StoreKind::S3,
            "directory" => StoreKind::Directory,
            _ => StoreKind::Shared,
        },
        settings: serde_json::from_str(&store.settings).unwrap_or_default(),
        encrypted: store.encrypted,
        current: store.current,
        created_at: Moment(store.created_at),
    };
    Ok(Page { items: found.into_iter().map(store).collect(), next: None })
}

async fn put(call: Call, Json(new): Json<NewStore>) -> Result<Plain<StoreId>> {
    let kind = match new.kind {
        StoreKind::Shared => "shared",
        StoreKind::S3 => "s3",
        StoreKind::Directory => "directory",
    };
    let settings = serde_json::to_string(&new.settings).map_err(|error| invalid(error.to_string()))?;
    let request = wire::SetStorageRequest {
        instance_id: call.instance_id().to_owned(),
        kind: kind.to_owned(),
        settings,
        secret: new.secret_key.map(|secret| secret.expose()).unwrap_or_default(),
        encrypted: new.encrypted,
        actor: call.actor(),
    };
    let id = call.parts.manager.clone().set_storage(request).await?.into_inner().store_id;
    Ok(Plain(StoreId { id }))
}

async fn put_credentials(call: Call, Json(new): Json<StorageCredentials>) -> Result<Plain<StoreId>> {
    let request = wire::RotateStorageCredentialsRequest {
        instance_id: call.instance_id().to_owned(),
        store_id: new.store_id.unwrap_or_default(),
        access_key: new.access_key,
        secret: new.secret_key.expose(),
        actor: call.actor(),
    };
    let id = call.parts.manager.clone().rotate_storage_credentials(request).await?.into_inner().store_id;
    Ok(Plain(StoreId { id }))
}

async fn put_delivery(call: Call, Json(delivery): Json<DeliveryChange>) -> Result<Done> {
    let delivery = match delivery.blob_delivery {
        BlobDelivery::Stream => "stream",
        BlobDelivery::Redirect => "redirect",
    };
    let request = wire::SetBlobDeliveryRequest {
        instance_id: call.instance_id().to_owned(),
        blob_delivery: delivery.to_owned(),
        actor: call.actor(),
    };
    call.parts.manager.clone().set_blob_delivery(request).await?;
    Ok(Done)
}
