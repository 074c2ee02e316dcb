//! Settings of a bucket that an instance has for itself, as instance-manager keeps them. Its secret is kept apart.

use super::{Config, Resources, config::MIN_PART};

/// A bucket of an instance's own.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// The bucket, which has to exist.
    pub bucket: String,
    /// What comes before every key.
    #[serde(default)]
    pub prefix: String,
    /// The URL of the service. Default: that of Amazon in the region.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// The URL of the service as clients reach it.
    #[serde(default)]
    pub public_endpoint: Option<String>,
    /// The region that requests are signed for.
    #[serde(default = "region")]
    pub region: String,
    /// Puts the bucket's name into the path.
    #[serde(default)]
    pub path_style: bool,
    /// Certificates in PEM that the endpoint's is verified by, instead of the well-known ones.
    #[serde(default)]
    pub certificates: Option<String>,
    /// The access key. What the machine itself may do is not for instances.
    pub access_key: String,
    /// Whether a checksum goes with everything that is written. Default: with Amazon only.
    #[serde(default)]
    pub checksums: Option<bool>,
    /// Whether the service honours `If-None-Match: *` when it writes.
    #[serde(default = "yes")]
    pub conditional_writes: bool,
    /// Whether the service wants all parts of an upload but the last to have one size.
    #[serde(default)]
    pub equal_parts: bool,
    /// The size of the first parts in MiB; the process's memory for uploads bounds it.
    #[serde(default = "part_size")]
    pub part_size_mib: u32,
    /// Encryption by the service: `AES256`, or `aws:kms`.
    #[serde(default)]
    pub server_side_encryption: Option<String>,
    /// The key for `aws:kms`.
    #[serde(default)]
    pub kms_key: Option<String>,
}

fn region() -> String {
    Config::default().region
}

const fn yes() -> bool {
    true
}

fn part_size() -> u32 {
    Config::default().part_size_mib
}

impl Bucket {
    /// What can't be right, for a person.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.bucket.is_empty() || self.bucket.contains('/') {
            return Err("a bucket has to be named".to_owned());
        }
        if self.access_key.is_empty() {
            return Err("an access key has to be given".to_owned());
        }
        if !self.prefix.is_empty() && !self.prefix.ends_with('/') {
            return Err("the prefix has to end in a slash".to_owned());
        }
        if self.prefix.starts_with('/') || self.prefix.split('/').any(|step| step == "." || step == "..") {
            return Err("the prefix has to be a plain path".to_owned());
        }
        Ok(())
    }

    /// Where it is, whatever it is reached by.
    pub(crate) fn location(&self) -> String {
        let endpoint = self.endpoint.as_deref().unwrap_or("amazon").trim_end_matches('/');
        format!("{}/{}/{}", endpoint.to_ascii_lowercase(), self.bucket, self.prefix)
    }

    /// The same but for its credentials.
    pub(crate) fn differs_in_credentials_only(&self, other: &Self) -> bool {
        Self { access_key: other.access_key.clone(), ..self.clone() } == *other
    }

    /// As the driver wants it.
    pub(super) fn config(&self, id: &str, resources: &Resources) -> Config {
        let memory = resources.memory_mib();
        let smallest = u32::try_from(MIN_PART >> 20).unwrap_or(5);
        Config {
            id: id.to_owned(),
            bucket: self.bucket.clone(),
            prefix: self.prefix.clone(),
            endpoint: self.endpoint.clone(),
            public_endpoint: self.public_endpoint.clone(),
            region: self.region.clone(),
            path_style: self.path_style,
            ca_file: None,
            access_key: Some(self.access_key.clone()),
            secret_key_file: None,
            profile: None,
            checksums: self.checksums,
            conditional_writes: self.conditional_writes,
            equal_parts: self.equal_parts,
            part_size_mib: self.part_size_mib.clamp(smallest, (memory / 2).max(smallest)),
            upload_memory_mib: memory,
            stall_seconds: Config::default().stall_seconds,
            server_side_encryption: self.server_side_encryption.clone(),
            kms_key: self.kms_key.clone(),
        }
    }
}

/// Where the deployment's own bucket is.
pub(crate) fn location_of(config: &Config) -> String {
    let endpoint = config.endpoint.as_deref().unwrap_or("amazon").trim_end_matches('/');
    format!("{}/{}/{}", endpoint.to_ascii_lowercase(), config.bucket, config.prefix)
}
