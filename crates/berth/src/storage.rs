//! `berth admin set-storage` and its like: where the bytes of an instance's blobs go.

use std::{io::Read, path::PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use berth_proto::instance_manager::{
    RotateStorageCredentialsRequest, SetStorageRequest, ShowStorageRequest,
    instance_manager_client::InstanceManagerClient,
};
use berth_service::Channel;
use clap::Args;

use crate::{admin::said, terminal};

/// Where to.
#[derive(Debug, Args)]
pub(crate) struct SetStorage {
    /// The instance's name
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: String,
    /// The deployment's storage
    #[arg(long, group = "place")]
    shared: bool,
    /// A bucket, which has to exist
    #[arg(long, group = "place", value_name = "NAME")]
    bucket: Option<String>,
    /// A folder below one that blob_store.directories allows
    #[arg(long, group = "place", value_name = "DIR")]
    directory: Option<PathBuf>,
    /// URL of the bucket's service; that of Amazon when absent
    #[arg(long, requires = "bucket", value_name = "URL")]
    endpoint: Option<String>,
    /// URL of that service as clients reach it; the endpoint when absent
    #[arg(long, requires = "bucket", value_name = "URL")]
    public_endpoint: Option<String>,
    /// Region that requests are signed for
    #[arg(long, requires = "bucket", value_name = "REGION")]
    region: Option<String>,
    /// What comes before every key; ends in a slash
    #[arg(long, requires = "bucket", value_name = "PREFIX")]
    prefix: Option<String>,
    /// Put the bucket's name into the path instead of the host's name
    #[arg(long, requires = "bucket")]
    path_style: bool,
    /// File with certificates in PEM that the endpoint's is verified by
    #[arg(long, requires = "bucket", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Access key
    #[arg(long, requires = "bucket", value_name = "KEY")]
    access_key: Option<String>,
    /// File with the secret that belongs to the access key; - reads standard input
    #[arg(long, requires = "bucket", value_name = "FILE")]
    secret_key_file: Option<PathBuf>,
    /// Whether a checksum goes with everything that is written; with Amazon only when absent
    #[arg(long, requires = "bucket", value_name = "BOOL")]
    checksums: Option<bool>,
    /// The service does not honour If-None-Match when it writes
    #[arg(long, requires = "bucket")]
    no_conditional_writes: bool,
    /// The service wants all parts of an upload but the last to have one size
    #[arg(long, requires = "bucket")]
    equal_parts: bool,
    /// Size of the first parts in MiB
    #[arg(long, requires = "bucket", value_name = "MIB")]
    part_size_mib: Option<u32>,
    /// Encryption by the service: AES256 or aws:kms
    #[arg(long, requires = "bucket", value_name = "KIND")]
    server_side_encryption: Option<String>,
    /// Key for aws:kms
    #[arg(long, requires = "bucket", value_name = "ID")]
    kms_key: Option<String>,
    /// Have Berth encrypt what it writes there
    #[arg(long)]
    encrypted: bool,
}

/// Other credentials.
#[derive(Debug, Args)]
pub(crate) struct RotateStorageCredentials {
    /// The instance's name
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: String,
    /// The store as show-storage names it; the one that takes new blobs when absent
    #[arg(long, value_name = "ID")]
    store: Option<String>,
    /// Access key
    #[arg(long, value_name = "KEY")]
    access_key: String,
    /// File with the secret that belongs to the access key; - reads standard input
    #[arg(long, value_name = "FILE")]
    secret_key_file: PathBuf,
}

/// What there is.
#[derive(Debug, Args)]
pub(crate) struct ShowStorage {
    /// The instance's name
    #[arg(long, value_name = "NAME")]
    pub(crate) instance: String,
}

type Client = InstanceManagerClient<Channel>;

fn read_secret(file: &PathBuf) -> Result<String> {
    let secret = if file.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("can't read the secret")?;
        text
    } else {
        std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))?
    };
    match secret.trim() {
        "" => bail!("the secret is empty"),
        secret => Ok(secret.to_owned()),
    }
}

/// Kind, settings and secret.
fn describe(wanted: &SetStorage) -> Result<(&'static str, serde_json::Value, String)> {
    if let Some(path) = &wanted.directory {
        let path = path.to_str().context("the folder's name is no text")?;
        return Ok(("directory", serde_json::json!({ "path": path }), String::new()));
    }
    let Some(bucket) = &wanted.bucket else {
        if !wanted.shared {
            bail!("say where: --shared, --bucket or --directory");
        }
        return Ok(("shared", serde_json::json!({}), String::new()));
    };
    let access_key = wanted.access_key.as_ref().context("a bucket needs --access-key")?;
    let secret = read_secret(wanted.secret_key_file.as_ref().context("a bucket needs --secret-key-file")?)?;
    let mut settings = serde_json::json!({
        "bucket": bucket,
        "access_key": access_key,
        "path_style": wanted.path_style,
        "conditional_writes": !wanted.no_conditional_writes,
        "equal_parts": wanted.equal_parts,
    });
    let certificates = wanted
        .ca_file
        .as_ref()
        .map(|file| std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display())));
    let given = [
        ("prefix", wanted.prefix.clone().map(Into::into)),
        ("endpoint", wanted.endpoint.clone().map(Into::into)),
        ("public_endpoint", wanted.public_endpoint.clone().map(Into::into)),
        ("region", wanted.region.clone().map(Into::into)),
        ("certificates", certificates.transpose()?.map(Into::into)),
        ("checksums", wanted.checksums.map(Into::into)),
        ("part_size_mib", wanted.part_size_mib.map(Into::into)),
        ("server_side_encryption", wanted.server_side_encryption.clone().map(Into::into)),
        ("kms_key", wanted.kms_key.clone().map(Into::into)),
    ];
    for (key, value) in given {
        if let Some(value) = value {
            settings[key] = value;
        }
    }
    Ok(("s3", settings, secret))
}

pub(crate) async fn set(client: &mut Client, instance_id: String, wanted: SetStorage) -> Result<()> {
    let (kind, settings, secret) = describe(&wanted)?;
    let request = SetStorageRequest {
        actor: None,
        instance_id,
        kind: kind.to_owned(),
        settings: settings.to_string(),
        secret,
        encrypted: wanted.encrypted,
    };
    let set = client.set_storage(request).await.map_err(|status| said(&status))?.into_inner();
    let instance = &wanted.instance;
    terminal::line(&match set.store_id.as_str() {
        "" => format!("new blobs of {instance} go to the deployment's storage"),
        id => format!("new blobs of {instance} go to store {id}"),
    });
    Ok(())
}

pub(crate) async fn rotate(
    client: &mut Client,
    instance_id: String,
    wanted: RotateStorageCredentials,
) -> Result<()> {
    let request = RotateStorageCredentialsRequest {
        actor: None,
        instance_id,
        store_id: wanted.store.unwrap_or_default(),
        access_key: wanted.access_key,
        secret: read_secret(&wanted.secret_key_file)?,
    };
    let rotated = client.rotate_storage_credentials(request).await.map_err(|status| said(&status))?;
    terminal::line(&format!("store {} has new credentials", rotated.into_inner().store_id));
    Ok(())
}

pub(crate) async fn show(client: &mut Client, instance_id: String) -> Result<()> {
    let asked = client.show_storage(ShowStorageRequest { instance_id }).await;
    let stores = asked.map_err(|status| said(&status))?.into_inner().stores;
    if !stores.iter().any(|store| store.current) {
        terminal::line(&serde_json::json!({ "kind": "shared", "current": true }).to_string());
    }
    for store in stores {
        let settings: serde_json::Value = serde_json::from_str(&store.settings)
            .map_err(|error| anyhow!("store {} has settings that are none: {error}", store.id))?;
        let line = serde_json::json!({
            "id": store.id,
            "kind": store.kind,
            "current": store.current,
            "encrypted": store.encrypted,
            "created_at": store.created_at,
            "settings": settings,
        });
        terminal::line(&line.to_string());
    }
    Ok(())
}
