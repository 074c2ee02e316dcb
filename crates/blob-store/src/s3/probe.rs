//! Whether a bucket can be used, and if not, why, in words for the person who named it.

use std::{error::Error as _, time::Duration};

use aws_sdk_s3::{
    config::{retry::RetryConfig, timeout::TimeoutConfig},
    error::{ProvideErrorMetadata, SdkError},
    primitives::ByteStream,
};
use berth_blobs::ObjectKey;
use bytes::Bytes;

use super::client::Client;

/// The longest wait for one answer.
const ANSWER: Duration = Duration::from_secs(5);

/// No patience: a person waits.
fn soon() -> aws_sdk_s3::config::Builder {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(ANSWER)
        .read_timeout(ANSWER)
        .operation_attempt_timeout(ANSWER)
        .operation_timeout(ANSWER);
    let retries = RetryConfig::standard().with_max_attempts(2);
    aws_sdk_s3::config::Builder::new().timeout_config(timeouts.build()).retry_config(retries)
}

/// The last cause that says something.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn explain<E>(client: &Client, what: &str, error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let bucket = &client.bucket;
    match error {
        SdkError::ConstructionFailure(_) => {
            let cause = error.source().map(root_cause).unwrap_or_default();
            return format!("the settings can't be used: {cause}");
        }
        SdkError::TimeoutError(_) => return "the endpoint can't be reached: it does not answer".to_owned(),
        SdkError::DispatchFailure(_) => {
            let cause = root_cause(error);
            return match cause.to_ascii_lowercase() {
                text if text.contains("certificate") || text.contains("unknownissuer") => {
                    format!("the endpoint's certificate is not trusted: {cause}")
                }
                text if text.contains("timed out") || text.contains("timeout") => {
                    "the endpoint can't be reached: it does not answer".to_owned()
                }
                _ => format!("the endpoint can't be reached: {cause}"),
            };
        }
        _ => {}
    }
    let status = error.raw_response().map_or(0, |response| response.status().as_u16());
    match (status, error.code().unwrap_or_default()) {
        (_, "NoSuchBucket") => format!("there is no bucket {bucket}"),
        (_, "InvalidAccessKeyId") => "access is denied: the access key is not known there".to_owned(),
        (_, "SignatureDoesNotMatch") => {
            "access is denied: the secret is not the one of the access key".to_owned()
        }
        (301, _) | (_, "PermanentRedirect" | "AuthorizationHeaderMalformed") => {
            format!("the bucket {bucket} is in another region, or at another endpoint")
        }
        (401 | 403, code) => format!("access is denied: it does not let this access key {what} ({code})"),
        (404, "") => format!("there is no bucket {bucket}"),
        (status, code) => {
            let message = error.message().unwrap_or_default();
            format!("it did not {what}: {status} {code} {message}").trim_end().to_owned()
        }
    }
}

impl Client {
    /// Writes an object, reads it back, compares and deletes it. What fails comes as a sentence.
    pub(super) async fn probe(&self, key: &ObjectKey, bytes: Bytes) -> Result<(), String> {
        let name = self.name(key);
        self.sdk
            .put_object()
            .bucket(&self.bucket)
            .key(&name)
            .set_if_none_match(self.conditional.then(|| "*".to_owned()))
            .set_server_side_encryption(self.encryption.clone())
            .set_ssekms_key_id(self.kms_key.clone())
            .body(ByteStream::from(bytes.clone()))
            .customize()
            .config_override(soon())
            .send()
            .await
            .map_err(|error| explain(self, "write an object", &error))?;
        let read = self.read_probe(&name).await;
        let deleted = self
            .sdk
            .delete_object()
            .bucket(&self.bucket)
            .key(&name)
            .customize()
            .config_override(soon())
            .send()
            .await;
        let read = read?;
        deleted.map_err(|error| explain(self, "delete an object", &error))?;
        if read == bytes { Ok(()) } else { Err("it gave back other bytes than were written".to_owned()) }
    }

    async fn read_probe(&self, name: &str) -> Result<Bytes, String> {
        let got = self
            .sdk
            .get_object()
            .bucket(&self.bucket)
            .key(name)
            .customize()
            .config_override(soon())
            .send()
            .await
            .map_err(|error| explain(self, "read an object", &error))?;
        let body = tokio::time::timeout(ANSWER, got.body.collect()).await;
        match body {
            Ok(Ok(body)) => Ok(body.into_bytes()),
            Ok(Err(error)) => Err(format!("it broke off while an object was read: {error}")),
            Err(_) => Err("it stopped while an object was read".to_owned()),
        }
    }
}
