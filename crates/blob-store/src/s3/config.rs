//! Settings of the object storage driver.

use std::path::PathBuf;

/// A bucket in object storage that speaks the S3 protocol.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The name of this store in the rows of blobs. It stays what it is as long as blobs are there.
    pub id: String,
    /// The bucket, which has to exist. Empty: no object storage.
    pub bucket: String,
    /// What comes before every key, for a bucket with more in it; ends in a slash. Default: nothing.
    pub prefix: String,
    /// The URL of the service. Default: that of Amazon in the region.
    pub endpoint: Option<String>,
    /// The URL of the service as clients reach it, where instances send them there for blobs. Default: `endpoint`.
    pub public_endpoint: Option<String>,
    /// The region that requests are signed for.
    pub region: String,
    /// Puts the bucket's name into the path instead of the host's name, as most services besides Amazon's want it.
    pub path_style: bool,
    /// A file with certificates in PEM that the endpoint's is verified by, instead of the well-known ones.
    pub ca_file: Option<PathBuf>,
    /// The access key. Without it: the profile, or what the environment says (variables, web identity, the machine's
    /// metadata service).
    pub access_key: Option<String>,
    /// A file with the secret that belongs to the access key.
    pub secret_key_file: Option<PathBuf>,
    /// The profile of the shared configuration files to take credentials from.
    pub profile: Option<String>,
    /// Whether a checksum goes with everything that is written. Default: with Amazon only, since other services often
    /// refuse it.
    pub checksums: Option<bool>,
    /// Whether the service honours `If-None-Match: *` when it writes.
    pub conditional_writes: bool,
    /// Whether the service wants all parts of an upload but the last to have one size.
    pub equal_parts: bool,
    /// The size of the first parts in MiB, at least 5. Unless parts have to be equal they grow, so that an object can
    /// have more than 10,000 times as much. What is not larger is written in one piece.
    pub part_size_mib: u32,
    /// The memory for parts on their way, of all uploads of the process together, whichever bucket they go to, in MiB.
    /// Parts grow to half of it at most: 64 MiB allow objects of some 280 GiB.
    pub upload_memory_mib: u32,
    /// How many seconds a request to the service may stand still while its bytes go out, none of them taken. Then it is
    /// made again. A service that is slow but takes them steadily is waited for.
    pub stall_seconds: u32,
    /// Encryption by the service: `AES256`, or `aws:kms`.
    pub server_side_encryption: Option<String>,
    /// The key for `aws:kms`. Default: the bucket's.
    pub kms_key: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            id: "s3".to_owned(),
            bucket: String::new(),
            prefix: String::new(),
            endpoint: None,
            public_endpoint: None,
            region: "us-east-1".to_owned(),
            path_style: false,
            ca_file: None,
            access_key: None,
            secret_key_file: None,
            profile: None,
            checksums: None,
            conditional_writes: true,
            equal_parts: false,
            part_size_mib: 8,
            upload_memory_mib: 64,
            stall_seconds: 30,
            server_side_encryption: None,
            kms_key: None,
        }
    }
}

/// The smallest part that the protocol allows, but for the last one.
pub(super) const MIN_PART: u64 = 5 << 20;
/// The most parts of an object.
pub(super) const MAX_PARTS: u32 = 10_000;
/// The largest part.
const MAX_PART: u64 = 5 << 30;
/// Parts of one size before they grow.
const PARTS_OF_A_SIZE: u32 = 800;

/// How large the parts are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    first: u64,
    largest: u64,
    pub(super) equal: bool,
}

impl Sizes {
    pub(super) fn new(config: &Config) -> Self {
        let first = (u64::from(config.part_size_mib) << 20).max(MIN_PART);
        // Two parts of an upload are in memory at a time: one that fills up, one on its way.
        let largest = ((u64::from(config.upload_memory_mib) << 20) / 2).clamp(first, MAX_PART);
        Self { first, largest, equal: config.equal_parts }
    }

    /// Bytes of the part with this number.
    pub(super) fn of(self, number: u32) -> u64 {
        if self.equal {
            return self.first;
        }
        let doublings = (number.saturating_sub(1) / PARTS_OF_A_SIZE).min(16);
        (self.first << doublings).min(self.largest)
    }

    /// The same in whole units.
    pub(super) fn of_units(self, number: u32, unit: u64) -> u64 {
        let size = self.of(number);
        let whole = size / unit * unit;
        if whole >= MIN_PART { whole } else { size.next_multiple_of(unit) }
    }

    /// The least that goes out as a part before its time; less waits as a tail. Half a part at least, so that the
    /// numbers last for half the bytes that they would otherwise.
    pub(super) fn short(self, number: u32) -> Option<u64> {
        (!self.equal).then(|| (self.of(number) / 2).max(MIN_PART))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_so_that_their_numbers_last() {
        let sizes = Sizes::new(&Config::default());
        assert_eq!(sizes.of(1), 8 << 20);
        assert_eq!(sizes.of(800), 8 << 20);
        assert_eq!(sizes.of(801), 16 << 20);
        assert_eq!(sizes.of(MAX_PARTS), 32 << 20);
        let total = |sizes: Sizes| (1..=MAX_PARTS).map(|number| sizes.of(number)).sum::<u64>();
        assert!(total(sizes) > 280 << 30);
        let large = Sizes::new(&Config { upload_memory_mib: 2048, ..Config::default() });
        assert!(total(large) > 5 << 40);
        let equal = Sizes::new(&Config { equal_parts: true, part_size_mib: 1, ..Config::default() });
        assert_eq!((equal.of(9000), equal.short(1)), (MIN_PART, None));
        for (sizes, number) in [(sizes, 1), (sizes, 801), (equal, 1), (large, MAX_PARTS)] {
            for unit in [1, 1000, 65_564] {
                let size = sizes.of_units(number, unit);
                assert!(size >= MIN_PART && size.is_multiple_of(unit), "{size} in units of {unit}");
                assert!(size <= sizes.of(number) || sizes.of(number) < MIN_PART + unit);
            }
        }
    }
}
