//! The calls to object storage, through the SDK: what it answers becomes our errors here.

use std::{sync::Arc, time::Duration};

use aws_sdk_s3::{
    config::{
        BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation,
        SharedCredentialsProvider, SharedHttpClient, StalledStreamProtectionConfig,
        retry::{RetryConfig, RetryPartition},
        timeout::TimeoutConfig,
    },
    error::{ProvideErrorMetadata, SdkError},
    primitives::ByteStream,
    types::{
        ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, Delete, ObjectIdentifier,
        ServerSideEncryption,
    },
};
use berth_blobs::{BlobsError, Listed, Multipart, ObjectKey};
use berth_oci::ByteRange;
use bytes::Bytes;

use super::{
    Config,
    changing::{Changing, Refusals},
};
use crate::Error;

/// Tries of a call, with growing pauses of random length between them, as long as the client's budget of tries lasts.
const TRIES: u32 = 5;
/// The longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// The longest wait for an answer to something small.
const ANSWER: Duration = Duration::from_secs(20);
/// The slowest that a try to send bytes may be on the whole, per second; one that stands still ends long before.
const SLOWEST: u64 = 32 * 1024;
/// Under this name every object carries the digest of everything up to its end.
const MARK: &str = "berth-digest";
/// Names that one call deletes or lists.
const PAGE: usize = 1000;

/// Calls to one bucket.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) sdk: aws_sdk_s3::Client,
    pub(super) bucket: String,
    prefix: String,
    pub(super) conditional: bool,
    /// What goes with everything that is written. Said at the beginning of an upload in parts, with each of them, and
    /// again at its end: the service refuses it otherwise.
    checksum: Option<ChecksumAlgorithm>,
    pub(super) encryption: Option<ServerSideEncryption>,
    pub(super) kms_key: Option<String>,
}

/// What the store says about an object.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) size: u64,
    mark: Option<String>,
}

/// What the store answered to a part, to be said again at the end.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Sent {
    pub(super) entity_tag: String,
    /// In base 64, as the protocol has it; where checksums are sent.
    pub(super) checksum: Option<String>,
}

/// A body on its way.
#[derive(Debug)]
pub(super) struct Got {
    body: ByteStream,
    /// Bytes of the whole object.
    pub(super) total: u64,
    /// Bytes of this body.
    pub(super) length: u64,
    pub(super) entity_tag: Option<String>,
}

impl Got {
    /// The next bytes; an error is the connection's.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, BlobsError>> {
        let step = self.body.next().await?;
        Some(step.map_err(|error| BlobsError::Unavailable(error.to_string())))
    }
}

/// Whether asking again may have another answer.
fn status<E>(error: &SdkError<E>) -> Option<u16> {
    error.raw_response().map(|response| response.status().as_u16())
}

/// The store's answer as an error of ours. Everything but a plain no is its being away, in some way.
fn failed<E>(operation: &'static str, error: &SdkError<E>) -> BlobsError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let code = error.code().unwrap_or_default().to_owned();
    match (status(error), code.as_str()) {
        // Each service has its own word for it; a quota is room as well.
        (Some(507), _) | (_, "InsufficientStorage" | "XMinioStorageFull" | "QuotaExceeded") => {
            BlobsError::Full
        }
        (Some(404), "NoSuchKey" | "NotFound" | "") => BlobsError::NotFound,
        (Some(400 | 409 | 412 | 416), _) => {
            let message = error.message().unwrap_or_default();
            BlobsError::Remote(format!("it refused to {operation}: {code} {message}"))
        }
        (status, _) => {
            let chain = aws_sdk_s3::error::DisplayErrorContext(error).to_string();
            tracing::warn!(operation, status, code, error = chain, "object storage failed");
            BlobsError::Unavailable(format!("object storage failed to {operation}: {code}"))
        }
    }
}

fn has_code<E>(error: &SdkError<E>, wanted: &str) -> bool
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    error.code() == Some(wanted)
}

fn size(length: Option<i64>) -> u64 {
    length.and_then(|length| u64::try_from(length).ok()).unwrap_or_default()
}

/// Time-outs for sending so many bytes.
fn patience(bytes: usize) -> aws_sdk_s3::config::Builder {
    let attempt = ANSWER + Duration::from_secs(bytes as u64 / SLOWEST);
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(CONNECT)
        // It would begin with the first byte that goes out. Instead `progress` watches over those.
        .disable_read_timeout()
        .operation_attempt_timeout(attempt);
    aws_sdk_s3::config::Builder::new().timeout_config(timeouts.build())
}

impl Client {
    pub(super) fn new(
        config: &Config,
        credentials: SharedCredentialsProvider,
        changing: Option<&Arc<Changing>>,
        http: SharedHttpClient,
    ) -> Result<Self, Error> {
        if config.bucket.is_empty() {
            return Err(Error::ObjectStorage("no bucket is configured".to_owned()));
        }
        let checksums = config.checksums.unwrap_or(config.endpoint.is_none());
        let (calculate, validate) = if checksums {
            (RequestChecksumCalculation::WhenSupported, ResponseChecksumValidation::WhenSupported)
        } else {
            (RequestChecksumCalculation::WhenRequired, ResponseChecksumValidation::WhenRequired)
        };
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT)
            .read_timeout(ANSWER)
            .operation_attempt_timeout(ANSWER);
        let mut builder = aws_sdk_s3::config::Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(config.region.clone()))
            .force_path_style(config.path_style)
            .request_checksum_calculation(calculate)
            .response_checksum_validation(validate)
            .retry_config(RetryConfig::standard().with_max_attempts(TRIES))
            .timeout_config(timeouts.build())
            .http_client(http)
            .credentials_provider(credentials)
            // It judges a client that reads slowly as a store that stalls; the reader has its own limit.
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        if let Some(endpoint) = &config.endpoint {
            builder = builder.endpoint_url(endpoint);
        }
        if let Some(changing) = changing {
            builder = builder
                .identity_cache(IdentityCache::no_cache())
                .retry_classifier(Refusals(Arc::clone(changing)))
                // Or a store that is away would use up the tries of all others.
                .retry_partition(RetryPartition::new(config.id.clone()));
        }
        Ok(Self {
            sdk: aws_sdk_s3::Client::from_conf(builder.build()),
            bucket: config.bucket.clone(),
            prefix: config.prefix.clone(),
            conditional: config.conditional_writes,
            checksum: checksums.then_some(ChecksumAlgorithm::Crc32),
            encryption: config.server_side_encryption.as_deref().map(ServerSideEncryption::from),
            kms_key: config.kms_key.clone(),
        })
    }

    pub(super) fn name(&self, key: &ObjectKey) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Writes an object under a name that nobody else writes to. `mark` says what is in it: an answer that was lost is
    /// told from somebody else's object by it.
    pub(super) async fn put(&self, key: &ObjectKey, body: Bytes, mark: &str) -> Result<(), BlobsError> {
        let length = body.len();
        let sent = self
            .sdk
            .put_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .set_if_none_match(self.conditional.then(|| "*".to_owned()))
            .set_checksum_algorithm(self.checksum.clone())
            .set_server_side_encryption(self.encryption.clone())
            .set_ssekms_key_id(self.kms_key.clone())
            .content_type("application/octet-stream")
            .metadata(MARK, mark)
            .body(super::body::of(body))
            .customize()
            .config_override(patience(length))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(()),
            Err(error) if status(&error) == Some(412) => {
                let found = self.head(key).await?;
                let ours = found.is_some_and(|head| {
                    head.size == length as u64 && head.mark.is_none_or(|found| found == mark)
                });
                if ours { Ok(()) } else { Err(BlobsError::Stale) }
            }
            Err(error) => Err(failed("write an object", &error)),
        }
    }

    pub(super) async fn head(&self, key: &ObjectKey) -> Result<Option<Head>, BlobsError> {
        let asked = self.sdk.head_object().bucket(&self.bucket).key(self.name(key)).send().await;
        match asked {
            Ok(found) => Ok(Some(Head {
                size: size(found.content_length()),
                mark: found.metadata().and_then(|metadata| metadata.get(MARK).cloned()),
            })),
            Err(error) => match failed("look at an object", &error) {
                BlobsError::NotFound => Ok(None),
                error => Err(error),
            },
        }
    }

    /// Opens an object, or a part of it, of the same content as before if `entity_tag` is given.
    pub(super) async fn get(
        &self,
        key: &ObjectKey,
        range: Option<ByteRange>,
        entity_tag: Option<String>,
    ) -> Result<Got, BlobsError> {
        let range = range.map(|range| format!("bytes={}-{}", range.offset, range.offset + range.length - 1));
        let asked = self
            .sdk
            .get_object()
            .bucket(&self.bucket)
            .key(self.name(key))
            .set_range(range)
            .set_if_match(entity_tag)
            .send()
            .await
            .map_err(|error| match status(&error) {
                Some(416) => BlobsError::Short { expected: 0, found: 0 },
                _ => failed("read an object", &error),
            })?;
        let length = size(asked.content_length());
        let total = asked.content_range().and_then(|range| range.rsplit_once('/')?.1.parse().ok());
        let entity_tag = asked.e_tag().map(ToOwned::to_owned);
        Ok(Got { total: total.unwrap_or(length), length, entity_tag, body: asked.body })
    }

    pub(super) async fn delete(&self, key: &ObjectKey) -> Result<(), BlobsError> {
        let asked = self.sdk.delete_object().bucket(&self.bucket).key(self.name(key)).send().await;
        match asked.map_err(|error| failed("delete an object", &error)) {
            Ok(_) | Err(BlobsError::NotFound) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes many objects; those that are absent are deleted.
    pub(super) async fn delete_all(&self, keys: &[ObjectKey]) -> Result<(), BlobsError> {
        for page in keys.chunks(PAGE) {
            let mut names = Vec::with_capacity(page.len());
            for key in page {
                let name = ObjectIdentifier::builder().key(self.name(key)).build();
                names.push(name.map_err(|_| BlobsError::Invalid("a name that can't be deleted"))?);
            }
            let names = Delete::builder().set_objects(Some(names)).quiet(true).build();
            let names = names.map_err(|_| BlobsError::Invalid("names that can't be deleted"))?;
            let asked = self.sdk.delete_objects().bucket(&self.bucket).delete(names).send().await;
            let answer = asked.map_err(|error| failed("delete objects", &error))?;
            if let Some(error) = answer.errors().iter().find(|error| error.code() != Some("NoSuchKey")) {
                let code = error.code().unwrap_or_default();
                return Err(BlobsError::Unavailable(format!("object storage kept an object: {code}")));
            }
        }
        Ok(())
    }

    pub(super) async fn begin(&self, key: &ObjectKey) -> Result<Multipart, BlobsError> {
        let asked = self
            .sdk
            .create_multipart_upload()
            .bucket(&self.bucket)
            .key(self.name(key))
            .set_checksum_algorithm(self.checksum.clone())
            .set_server_side_encryption(self.encryption.clone())
            .set_ssekms_key_id(self.kms_key.clone())
            .content_type("application/octet-stream")
            .send()
            .await
            .map_err(|error| failed("begin an upload", &error))?;
        let id = asked.upload_id().ok_or_else(|| BlobsError::Remote("it began no upload".to_owned()))?;
        Ok(Multipart { key: key.clone(), id: id.to_owned() })
    }

    /// Sends a part.
    pub(super) async fn part(
        &self,
        multipart: &Multipart,
        number: u32,
        body: Bytes,
    ) -> Result<Sent, BlobsError> {
        let length = body.len();
        let sent = self
            .sdk
            .upload_part()
            .bucket(&self.bucket)
            .key(self.name(&multipart.key))
            .upload_id(&multipart.id)
            .set_checksum_algorithm(self.checksum.clone())
            .part_number(i32::try_from(number).unwrap_or(i32::MAX))
            .body(super::body::of(body))
            .customize()
            .config_override(patience(length))
            .send()
            .await
            .map_err(|error| match has_code(&error, "NoSuchUpload") {
                // It was abandoned, or finished, by somebody else.
                true => BlobsError::Stale,
                false => failed("write a part", &error),
            })?;
        let entity_tag =
            sent.e_tag().ok_or_else(|| BlobsError::Remote("it gave a part no tag".to_owned()))?;
        Ok(Sent { entity_tag: entity_tag.to_owned(), checksum: sent.checksum_crc32().map(ToOwned::to_owned) })
    }

    /// Asks once for the parts to be put together. Whatever it answers, only a look at the object says what happened.
    pub(super) async fn complete(
        &self,
        multipart: &Multipart,
        parts: &[(u32, Sent)],
    ) -> Result<(), BlobsError> {
        let parts = parts.iter().map(|(number, sent)| {
            let number = i32::try_from(*number).unwrap_or(i32::MAX);
            CompletedPart::builder()
                .part_number(number)
                .e_tag(&sent.entity_tag)
                .set_checksum_crc32(sent.checksum.clone())
                .build()
        });
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build();
        self.sdk
            .complete_multipart_upload()
            .bucket(&self.bucket)
            .key(self.name(&multipart.key))
            .upload_id(&multipart.id)
            .multipart_upload(parts)
            .customize()
            // Putting thousands of parts together may take minutes.
            .config_override(patience(usize::try_from(120 * SLOWEST).unwrap_or(usize::MAX)))
            .send()
            .await
            .map_err(|error| match has_code(&error, "NoSuchUpload") {
                true => BlobsError::NotFound,
                false => failed("complete an upload", &error),
            })?;
        Ok(())
    }

    pub(super) async fn abort(&self, multipart: &Multipart) -> Result<(), BlobsError> {
        let asked = self
            .sdk
            .abort_multipart_upload()
            .bucket(&self.bucket)
            .key(self.name(&multipart.key))
            .upload_id(&multipart.id)
            .send()
            .await;
        match asked {
            Ok(_) => Ok(()),
            Err(error) if has_code(&error, "NoSuchUpload") => Ok(()),
            Err(error) => match failed("abort an upload", &error) {
                BlobsError::NotFound => Ok(()),
                error => Err(error),
            },
        }
    }

    /// A page of objects after a name; what bears no object's name is left out, and counts.
    pub(super) async fn list(
        &self,
        after: &str,
        limit: usize,
    ) -> Result<(Vec<Listed>, Option<String>), BlobsError> {
        let limit = limit.min(PAGE);
        let prefix = format!("{}i/", self.prefix);
        let asked = self
            .sdk
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(prefix)
            .set_start_after((!after.is_empty()).then(|| format!("{}{after}", self.prefix)))
            .max_keys(i32::try_from(limit).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(|error| failed("list objects", &error))?;
        let mut page = Vec::new();
        let mut last = None;
        for object in asked.contents() {
            let Some(name) = object.key().and_then(|name| name.strip_prefix(&self.prefix)) else { continue };
            last = Some(name.to_owned());
            let Ok(key) = name.parse() else { continue };
            let modified = object.last_modified().map_or(0, |at| at.as_nanos() / 1000);
            let modified = i64::try_from(modified).unwrap_or_default();
            page.push(Listed { key, size: size(object.size()), modified });
        }
        let more = asked.is_truncated().unwrap_or(false);
        Ok((page, last.filter(|_| more)))
    }
}
