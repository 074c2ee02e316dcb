//! URLs that open one object for five minutes, signed in their query (AWS Signature Version 4). Not by the SDK's presigner:
//! it goes through everything that a request goes through, derives the key each time, and would need a second client for
//! another endpoint. With the day's key at hand a URL costs three short hashes.

use std::{net::Ipv6Addr, sync::Arc, time::Duration};

use aws_lc_rs::{digest, hmac};
use aws_smithy_types::{DateTime, date_time::Format};
use berth_blobs::BlobsError;
use http::{Uri, uri::Scheme};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};

use super::Config;
use crate::Error;

/// How long a URL opens its object.
pub(super) const LIFE: Duration = Duration::from_secs(300);

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
/// What the protocol leaves as it is.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const IN_PATH: &AsciiSet = &IN_QUERY.remove(b'/');

/// Credentials at one time.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) access_key: String,
    pub(super) secret: SecretString,
    /// The session that temporary ones belong to.
    pub(super) token: Option<SecretString>,
    /// When they end, in microseconds since 1970.
    pub(super) expires: Option<i64>,
}

/// Where clients find the bucket.
#[derive(Debug)]
struct Target {
    /// Scheme and host, without a slash at the end.
    base: String,
    /// The host as clients send it.
    host: String,
    /// What comes before an object's name, encoded.
    path: String,
}

/// Signs with keys that somebody else looks after.
#[derive(Debug)]
pub(super) struct Presigner {
    target: Target,
    region: String,
    /// The key of a day, and what it was derived from.
    derived: Mutex<Option<(Arc<Keys>, String, hmac::Key)>>,
}

/// Whether a bucket's name can be a label of a host's name, which a certificate for all buckets covers. The SDK leaves
/// other names in the path, too.
fn fits_host(bucket: &str) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
    (3..=63).contains(&bucket.len())
        && bucket.bytes().all(inner)
        && !bucket.starts_with('-')
        && !bucket.ends_with('-')
}

fn is_address(host: &str) -> bool {
    let number = host.trim_start_matches('[').trim_end_matches(']');
    number.parse::<std::net::Ipv4Addr>().is_ok() || number.parse::<Ipv6Addr>().is_ok()
}

impl Target {
    fn new(config: &Config) -> Result<Self, Error> {
        let amazon = || {
            let domain = if config.region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
            format!("https://s3.{}.{domain}", config.region)
        };
        let given = config.public_endpoint.clone().or_else(|| config.endpoint.clone()).unwrap_or_else(amazon);
        let wrong = || Error::ObjectStorage(format!("{given:?} is no URL of an endpoint"));
        let endpoint: Uri = given.parse().map_err(|_| wrong())?;
        let (Some(scheme), Some(authority)) = (endpoint.scheme(), endpoint.authority()) else {
            return Err(wrong());
        };
        let tls = *scheme == Scheme::HTTPS;
        if (!tls && *scheme != Scheme::HTTP) || authority.as_str().contains('@') || endpoint.query().is_some()
        {
            return Err(wrong());
        }
        let name = authority.host().to_ascii_lowercase();
        // Clients leave out the port that goes without saying.
        let usual = if tls { 443 } else { 80 };
        let port = authority.port_u16().filter(|port| *port != usual);
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        let before = endpoint.path().trim_end_matches('/');
        let bucket = &config.bucket;
        let (host, path) = if config.path_style || is_address(&name) || !fits_host(bucket) {
            (format!("{name}{port}"), format!("{before}/{}/", utf8_percent_encode(bucket, IN_PATH)))
        } else {
            (format!("{bucket}.{name}{port}"), format!("{before}/"))
        };
        Ok(Self { base: format!("{scheme}://{host}"), host, path })
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// `20130524T000000Z`
fn stamp(seconds: i64) -> Result<String, BlobsError> {
    let text = DateTime::from_secs(seconds).fmt(Format::DateTime);
    let text = text.map_err(|_| BlobsError::Invalid("a time that no URL can name"))?;
    Ok(text.replace(['-', ':'], ""))
}

impl Presigner {
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        Ok(Self { target: Target::new(config)?, region: config.region.clone(), derived: Mutex::new(None) })
    }

    /// The key of `day`, derived once.
    fn key(&self, keys: &Arc<Keys>, day: &str) -> hmac::Key {
        let mut derived = self.derived.lock();
        if let Some((of, at, key)) = &*derived
            && Arc::ptr_eq(of, keys)
            && at == day
        {
            return key.clone();
        }
        let step =
            |key: &[u8], text: &str| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes());
        let secret = SecretString::from(format!("AWS4{}", keys.secret.expose_secret()));
        let mut tag = step(secret.expose_secret().as_bytes(), day);
        for text in [self.region.as_str(), "s3", "aws4_request"] {
            tag = step(tag.as_ref(), text);
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref());
        *derived = Some((Arc::clone(keys), day.to_owned(), key.clone()));
        key
    }

    /// The URL for a GET of an object, from `now` on, in seconds since 1970.
    pub(super) fn sign(
        &self,
        keys: &Arc<Keys>,
        name: &str,
        now: i64,
        life: Duration,
    ) -> Result<SecretString, BlobsError> {
        let at = stamp(now)?;
        let day = at.split_once('T').map_or("", |(day, _)| day);
        let scope = format!("{day}/{}/s3/aws4_request", self.region);
        let credential = format!("{}/{scope}", keys.access_key);
        let mut query = format!(
            "X-Amz-Algorithm={ALGORITHM}&X-Amz-Credential={}&X-Amz-Date={at}&X-Amz-Expires={}",
            utf8_percent_encode(&credential, IN_QUERY),
            life.as_secs(),
        );
        if let Some(token) = &keys.token {
            let token = utf8_percent_encode(token.expose_secret(), IN_QUERY);
            query.push_str(&format!("&X-Amz-Security-Token={token}"));
        }
        query.push_str("&X-Amz-SignedHeaders=host");
        let Target { base, host, path } = &self.target;
        let path = format!("{path}{}", utf8_percent_encode(name, IN_PATH));
        // Range and everything else is the client's to say.
        let request = format!("GET\n{path}\n{query}\nhost:{host}\n\nhost\nUNSIGNED-PAYLOAD");
        let request = hex(digest::digest(&digest::SHA256, request.as_bytes()).as_ref());
        let text = format!("{ALGORITHM}\n{at}\n{scope}\n{request}");
        let signature = hex(hmac::sign(&self.key(keys, day), text.as_bytes()).as_ref());
        Ok(format!("{base}{path}?{query}&X-Amz-Signature={signature}").into())
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::{
        config::{
            BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
        },
        presigning::PresigningConfig,
    };
    use aws_sigv4::{
        http_request::{
            PercentEncodingMode, SignableBody, SignableRequest, SignatureLocation, SigningSettings,
            UriPathNormalizationMode, sign,
        },
        sign::v4,
    };

    use super::*;

    const TIME: i64 = 1_369_353_600;

    fn keys(token: Option<&str>) -> Arc<Keys> {
        Arc::new(Keys {
            access_key: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            token: token.map(SecretString::from),
            expires: None,
        })
    }

    fn config(bucket: &str, public_endpoint: Option<&str>) -> Config {
        Config {
            bucket: bucket.to_owned(),
            public_endpoint: public_endpoint.map(ToOwned::to_owned),
            ..Config::default()
        }
    }

    fn url(config: &Config, keys: &Arc<Keys>, name: &str, now: i64, life: u64) -> String {
        let presigner = Presigner::new(config).unwrap();
        let url = presigner.sign(keys, name, now, Duration::from_secs(life)).unwrap();
        url.expose_secret().to_owned()
    }

    /// The example of Amazon's documentation, "Authenticating Requests: Using Query Parameters".
    #[test]
    fn the_documented_example_has_the_documented_signature() {
        let url = url(
            &config("examplebucket", Some("https://s3.amazonaws.com")),
            &keys(None),
            "test.txt",
            TIME,
            86400,
        );
        assert_eq!(
            url,
            "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
             &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
             &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
             &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
        );
    }

    /// Configurations that differ in where the bucket's name goes, and names with everything in them.
    fn cases() -> Vec<(Config, &'static str)> {
        let mut path_style = config("blobs", Some("https://storage.example:9443"));
        path_style.path_style = true;
        path_style.region = "eu-central-1".to_owned();
        let mut below = config("blobs", Some("http://127.0.0.1:9000/storage/"));
        below.prefix = "a b/ü+&=~/".to_owned();
        let mut china = config("blobs", None);
        china.region = "cn-north-1".to_owned();
        let mut own = config("dots.in.it", None);
        own.endpoint = Some("http://storage.internal".to_owned());
        vec![
            (config("blobs", None), "i/A/B.1"),
            (config("dots.in.it", Some("https://storage.example")), "i/A/B.1.t2"),
            (path_style, "i/A/B.7"),
            (below, "i/A/B.7"),
            (china, "i/A/B"),
            (own, "i/A/B"),
        ]
    }

    /// The signature, by the crate that signs for the SDK.
    #[test]
    fn signatures_are_those_of_the_sdk() {
        for (config, name) in cases() {
            for token in [None, Some("a/session+token==")] {
                let keys = keys(token);
                let name = format!("{}{name}", config.prefix);
                let ours = url(&config, &keys, &name, TIME, 300);
                let (plain, _) = ours.split_once('?').unwrap();
                let mut settings = SigningSettings::default();
                settings.signature_location = SignatureLocation::QueryParams;
                settings.expires_in = Some(Duration::from_secs(300));
                settings.percent_encoding_mode = PercentEncodingMode::Single;
                settings.uri_path_normalization_mode = UriPathNormalizationMode::Disabled;
                let identity = Credentials::new(
                    &keys.access_key,
                    keys.secret.expose_secret(),
                    token.map(ToOwned::to_owned),
                    None,
                    "test",
                );
                let identity = identity.into();
                let parameters = v4::SigningParams::builder()
                    .identity(&identity)
                    .region(&config.region)
                    .name("s3")
                    .time(std::time::UNIX_EPOCH + Duration::from_secs(TIME.unsigned_abs()))
                    .settings(settings)
                    .build()
                    .unwrap()
                    .into();
                let request =
                    SignableRequest::new("GET", plain, std::iter::empty(), SignableBody::UnsignedPayload)
                        .unwrap();
                let signed = sign(request, &parameters).unwrap();
                let theirs = signed.signature();
                assert!(ours.ends_with(&format!("&X-Amz-Signature={theirs}")), "{ours}, {theirs}");
            }
        }
    }

    /// Everything but the signature, by the SDK's client. It also names the operation.
    #[tokio::test]
    async fn urls_are_those_of_the_sdk() {
        for (config, name) in cases() {
            let keys = keys(None);
            let credentials =
                Credentials::new(&keys.access_key, keys.secret.expose_secret(), None, None, "test");
            let endpoint = config.public_endpoint.clone().or_else(|| config.endpoint.clone());
            let mut builder = aws_sdk_s3::config::Builder::new()
                .behavior_version(BehaviorVersion::latest())
                .region(Region::new(config.region.clone()))
                .force_path_style(config.path_style)
                .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
                .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
                .credentials_provider(credentials);
            builder.set_endpoint_url(endpoint);
            let name = format!("{}{name}", config.prefix);
            let presigning = PresigningConfig::builder()
                .start_time(std::time::UNIX_EPOCH + Duration::from_secs(TIME.unsigned_abs()))
                .expires_in(Duration::from_secs(300))
                .build()
                .unwrap();
            let sdk = aws_sdk_s3::Client::from_conf(builder.build());
            let request = sdk.get_object().bucket(&config.bucket).key(&name).presigned(presigning).await;
            let request = request.unwrap();
            let without_signature = |url: &str| {
                let (place, query) = url.split_once('?').unwrap();
                let mut query: Vec<String> = query
                    .split('&')
                    .filter(|one| !one.starts_with("X-Amz-Signature=") && !one.starts_with("x-id="))
                    .map(ToOwned::to_owned)
                    .collect();
                query.sort();
                (place.to_owned(), query)
            };
            let ours = url(&config, &keys, &name, TIME, 300);
            assert_eq!(without_signature(&ours), without_signature(request.uri()));
        }
    }

    #[test]
    fn the_key_is_derived_once_a_day_and_anew_for_other_credentials() {
        let presigner = Presigner::new(&config("blobs", None)).unwrap();
        let first = keys(None);
        let sign = |keys: &Arc<Keys>, now| {
            let url = presigner.sign(keys, "i/A/B", now, LIFE).unwrap();
            url.expose_secret().to_owned()
        };
        let day = || presigner.derived.lock().as_ref().map(|(_, day, _)| day.clone());
        let one = sign(&first, TIME);
        assert_eq!(day().unwrap(), "20130524");
        assert_eq!(sign(&first, TIME), one);
        let next = sign(&first, TIME + 86_400);
        assert_eq!(day().unwrap(), "20130525");
        assert_ne!(next, one);
        let other = Keys { secret: "another".into(), ..Arc::into_inner(keys(None)).unwrap() };
        assert_ne!(sign(&Arc::new(other), TIME), one);
        assert_eq!(sign(&first, TIME), one);
        assert!(
            !format!("{presigner:?} {:?}", presigner.sign(&first, "x", TIME, LIFE)).contains("Signature=")
        );
    }

    #[test]
    fn what_is_no_endpoint_is_refused() {
        for endpoint in ["storage.example", "ftp://storage.example", "https://a:b@host", "https://h/?x=y", ""]
        {
            assert!(Presigner::new(&config("blobs", Some(endpoint))).is_err(), "{endpoint}");
        }
        let usual = Target::new(&config("blobs", Some("HTTPS://Storage.example:443/"))).unwrap();
        assert_eq!((usual.base.as_str(), usual.path.as_str()), ("https://blobs.storage.example", "/"));
    }
}
