//! Object storage in this process: an S3 server over a folder, which also does on demand what such services do at their
//! worst. It is stricter than the library that it stands on: entity tags have to match, a finished upload is unknown.

use std::{
    collections::HashMap,
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::Engine as _;
use bytes::Bytes;
use futures::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::{
    Body, S3, S3Request, S3Response, S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    dto,
    host::SingleDomain,
    s3_error,
    service::S3ServiceBuilder,
};
use s3s_fs::FileSystem;

use crate::Builder;

/// The access key of every server of this kit.
pub const ACCESS_KEY: &str = "berth-test";
/// Its secret.
pub const SECRET_KEY: &str = "not-a-secret";
/// Its bucket.
pub const BUCKET: &str = "blobs";

/// What goes wrong with a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is answered with this status, and nothing happens.
    Status(u16),
    /// The connection is closed, and nothing happens.
    CutBefore,
    /// It takes effect, and the connection is closed instead of an answer.
    CutAfter,
    /// It takes effect, and is answered with this status.
    StatusAfter(u16),
    /// The answer's body breaks off after so many bytes.
    Truncate(u64),
    /// It waits before anything happens.
    Delay(Duration),
    /// The answer's body comes at so many bytes a second.
    Slow(u64),
    /// So many bytes of the request's body are taken, then none any more, and nothing happens.
    StopTaking(u64),
    /// The request's body is taken at so many bytes a second.
    TakeSlowly(u64),
}

/// Which requests a fault befalls: by method, and by what the path with its query contains.
#[derive(Clone, Debug)]
struct Planned {
    method: &'static str,
    contains: String,
    fault: Fault,
    times: usize,
}

/// A running server. It lives on a thread of its own, so that tests with runtimes of their own can share it.
#[derive(Debug)]
pub struct ObjectStorage {
    address: SocketAddr,
    folder: tempfile::TempDir,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    planned: Mutex<Vec<Planned>>,
    requests: AtomicUsize,
    log: Mutex<Vec<String>>,
    away: AtomicBool,
    stopped: AtomicBool,
    /// The secret of each access key, and the one bucket that it opens.
    keys: Mutex<HashMap<String, (String, String)>>,
}

/// Knows who somebody is, and what is theirs.
struct Doorkeeper(Arc<Shared>);

#[async_trait::async_trait]
impl S3Auth for Doorkeeper {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        let keys = self.0.keys.lock().unwrap();
        let found = keys.get(access_key).map(|(secret, _)| SecretKey::from(secret.as_str()));
        found.ok_or_else(|| s3_error!(InvalidAccessKeyId))
    }
}

#[async_trait::async_trait]
impl S3Access for Doorkeeper {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let allowed = {
            let keys = self.0.keys.lock().unwrap();
            let of = context.credentials().and_then(|known| keys.get(&known.access_key));
            of.is_some_and(|(_, bucket)| context.s3_path().get_bucket_name() == Some(bucket))
        };
        if allowed { Ok(()) } else { Err(s3_error!(AccessDenied)) }
    }
}

impl ObjectStorage {
    /// Starts on a free port, with an empty bucket.
    pub fn start() -> Self {
        Self::start_with(false, None)
    }

    /// One that forgets the bytes of parts, and makes holes of the same size of them: for much that nobody reads.
    pub fn hollow() -> Self {
        Self::start_with(true, None)
    }

    /// One whose buckets are hosts below `domain`, which no name service knows: it is reached as an HTTP proxy.
    pub fn below(domain: &str) -> Self {
        Self::start_with(false, Some(domain))
    }

    fn start_with(hollow: bool, domain: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // That of a deployment which tests share is never dropped.
        crate::janitor::folder(folder.path());
        std::fs::create_dir(folder.path().join(BUCKET)).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared::default());
        let files = FileSystem::new(folder.path()).unwrap();
        let store = Store { files, root: folder.path().to_owned(), uploads: Mutex::default(), hollow };
        let mut service = S3ServiceBuilder::new(store);
        service.set_auth(Doorkeeper(Arc::clone(&shared)));
        service.set_access(Doorkeeper(Arc::clone(&shared)));
        if let Some(domain) = domain {
            service.set_host(SingleDomain::new(domain).unwrap());
        }
        let service = service.build();
        let of_thread = Arc::clone(&shared);
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(serve(listener, service, of_thread));
        });
        let storage = Self { address, folder, shared };
        storage.set_key(ACCESS_KEY, SECRET_KEY, BUCKET);
        storage
    }

    /// Makes another bucket, which this access key opens.
    pub fn add_bucket(&self, bucket: &str, access_key: &str, secret: &str) {
        std::fs::create_dir(self.folder.path().join(bucket)).unwrap();
        self.set_key(access_key, secret, bucket);
    }

    /// Lets an access key open a bucket, with this secret alone from now on.
    pub fn set_key(&self, access_key: &str, secret: &str, bucket: &str) {
        let value = (secret.to_owned(), bucket.to_owned());
        self.shared.keys.lock().unwrap().insert(access_key.to_owned(), value);
    }

    /// Forgets an access key.
    pub fn revoke_key(&self, access_key: &str) {
        self.shared.keys.lock().unwrap().remove(access_key);
    }

    /// The endpoint.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Keys of the environment by which a deployment keeps its blobs here.
    pub fn settings(&self) -> [(String, String); 5] {
        let secret = self.folder.path().join(".secret");
        std::fs::write(&secret, SECRET_KEY).unwrap();
        let settings = [
            ("BUCKET", BUCKET.to_owned()),
            ("ENDPOINT", self.url()),
            ("PATH_STYLE", "true".to_owned()),
            ("ACCESS_KEY", ACCESS_KEY.to_owned()),
            ("SECRET_KEY_FILE", secret.display().to_string()),
        ];
        settings.map(|(key, value)| (format!("BERTH__BLOB_STORE__S3__{key}"), value))
    }

    /// The same deployment with its blobs here.
    #[must_use]
    pub fn holds_blobs_of(&self, builder: Builder) -> Builder {
        self.settings().into_iter().fold(builder, |builder, (key, value)| builder.with_env(key, value))
    }

    /// The file of an object.
    pub fn file(&self, key: &str) -> PathBuf {
        self.file_in(BUCKET, key)
    }

    /// The file of an object in another bucket.
    pub fn file_in(&self, bucket: &str, key: &str) -> PathBuf {
        self.folder.path().join(bucket).join(key)
    }

    /// Lets the next `times` requests with this method whose path or query contains a text go wrong.
    pub fn plan(&self, method: &'static str, contains: &str, fault: Fault, times: usize) {
        let contains = contains.to_owned();
        self.shared.planned.lock().unwrap().push(Planned { method, contains, fault, times });
    }

    /// Nothing goes wrong any more.
    pub fn forget_plans(&self) {
        self.shared.planned.lock().unwrap().clear();
    }

    /// Whether every planned fault has happened.
    pub fn all_happened(&self) -> bool {
        self.shared.planned.lock().unwrap().is_empty()
    }

    /// Answers nothing any more, or again.
    pub fn set_away(&self, away: bool) {
        self.shared.away.store(away, Ordering::SeqCst);
    }

    /// Requests so far.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// Method, path and query of every request so far.
    pub fn log(&self) -> Vec<String> {
        self.shared.log.lock().unwrap().clone()
    }

    /// Files that belong to uploads in parts which are neither finished nor given up.
    pub fn parts_left(&self) -> usize {
        let files = std::fs::read_dir(self.folder.path()).unwrap().flatten();
        files.filter(|file| file.file_name().to_string_lossy().starts_with(".upload")).count()
    }

    /// The keys of all objects.
    pub fn keys(&self) -> Vec<String> {
        self.keys_in(BUCKET)
    }

    /// The keys of all objects in a bucket.
    pub fn keys_in(&self, bucket: &str) -> Vec<String> {
        fn walk(folder: PathBuf, prefix: &str, keys: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                match entry.path().is_dir() {
                    true => walk(entry.path(), &format!("{name}/"), keys),
                    false => keys.push(name),
                }
            }
        }
        let mut keys = Vec::new();
        walk(self.folder.path().join(bucket), "", &mut keys);
        keys.sort();
        keys
    }
}

impl Drop for ObjectStorage {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        // Wakes the accept that looks at the flag.
        let _closed = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
    }
}

async fn serve(listener: std::net::TcpListener, service: s3s::service::S3Service, shared: Arc<Shared>) {
    let listener = tokio::net::TcpListener::from_std(listener).unwrap();
    while let Ok((socket, _)) = listener.accept().await {
        if shared.stopped.load(Ordering::SeqCst) {
            return;
        }
        if shared.away.load(Ordering::SeqCst) {
            continue;
        }
        let (service, shared) = (service.clone(), Arc::clone(&shared));
        let answer = hyper::service::service_fn(move |request| {
            let (service, shared) = (service.clone(), Arc::clone(&shared));
            async move { answer(request, &service, &shared).await }
        });
        let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        #[expect(clippy::disallowed_methods, reason = "a test's own server")]
        tokio::spawn(async move {
            let _cut = server.serve_connection(TokioIo::new(socket), answer).await;
        });
    }
}

fn refuse(status: u16) -> http::Response<Body> {
    let code = if status == 503 { "SlowDown" } else { "InternalError" };
    let body = format!("<Error><Code>{code}</Code><Message>as planned</Message></Error>");
    http::Response::builder()
        .status(status)
        .header("content-type", "application/xml")
        .body(Body::from(body))
        .unwrap()
}

/// The same body at so many bytes a second.
fn slowly(body: Body, rate: u64) -> Body {
    /// Pauses are counted in milliseconds.
    const PAUSES: u64 = 100;
    let step_size = usize::try_from(rate.div_ceil(PAUSES)).unwrap();
    let pause = Duration::from_secs(1).mul_f64(step_size as f64 / rate as f64);
    let steps = body.flat_map(move |step| {
        let bytes: Bytes = step.unwrap_or_default();
        let pieces = (0..bytes.len().div_ceil(step_size))
            .map(move |number| bytes.slice(number * step_size..bytes.len().min((number + 1) * step_size)));
        futures::stream::iter(pieces).then(move |piece| async move {
            tokio::time::sleep(pause.mul_f64(piece.len() as f64 / step_size as f64)).await;
            Ok::<_, std::io::Error>(piece)
        })
    });
    Body::from(s3s::stream::DynByteStream::from(dto::StreamingBlob::wrap(steps)))
}

async fn answer(
    request: http::Request<hyper::body::Incoming>,
    service: &s3s::service::S3Service,
    shared: &Shared,
) -> anyhow::Result<http::Response<Body>> {
    let path = request.uri().to_string();
    shared.requests.fetch_add(1, Ordering::SeqCst);
    shared.log.lock().unwrap().push(format!("{} {path}", request.method()));
    if shared.away.load(Ordering::SeqCst) {
        anyhow::bail!("away");
    }
    let fault = {
        let mut planned = shared.planned.lock().unwrap();
        let fits = |one: &Planned| request.method().as_str() == one.method && path.contains(&one.contains);
        let found = planned.iter().position(fits);
        found.map(|index| {
            let fault = planned[index].fault;
            planned[index].times -= 1;
            if planned[index].times == 0 {
                planned.remove(index);
            }
            fault
        })
    };
    match fault {
        Some(Fault::Status(status)) => {
            let mut body = Body::from(request.into_body());
            while let Some(Ok(_)) = body.next().await {}
            return Ok(refuse(status));
        }
        Some(Fault::CutBefore) => anyhow::bail!("cut as planned"),
        Some(Fault::Delay(wait)) => tokio::time::sleep(wait).await,
        Some(Fault::StopTaking(length)) => {
            let mut body = Body::from(request.into_body());
            let mut taken = 0;
            while taken < length
                && let Some(Ok(step)) = body.next().await
            {
                taken += step.len() as u64;
            }
            return std::future::pending().await;
        }
        _ => {}
    }
    let request = request.map(|body| match fault {
        Some(Fault::TakeSlowly(rate)) => slowly(Body::from(body), rate),
        _ => Body::from(body),
    });
    let response = service.call(request).await;
    let mut response = response.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    match fault {
        Some(Fault::CutAfter | Fault::StatusAfter(_)) => {
            // Some things are only done while the answer is read.
            let mut body = std::mem::take(response.body_mut());
            while let Some(step) = body.next().await {
                step.map_err(|error| anyhow::anyhow!("{error}"))?;
            }
            match fault {
                Some(Fault::StatusAfter(status)) => Ok(refuse(status)),
                _ => anyhow::bail!("cut as planned"),
            }
        }
        Some(Fault::Truncate(length)) => {
            let body = std::mem::take(response.body_mut());
            let mut left = usize::try_from(length)?;
            let steps = body.map(move |step| {
                let bytes: Bytes = step.map_err(|error| std::io::Error::other(error.to_string()))?;
                if bytes.len() > left {
                    return Err(std::io::Error::other("cut as planned"));
                }
                left -= bytes.len();
                Ok(bytes)
            });
            let steps = s3s::stream::DynByteStream::from(dto::StreamingBlob::wrap(steps));
            *response.body_mut() = Body::from(steps);
            Ok(response)
        }
        Some(Fault::Slow(rate)) => {
            let body = std::mem::take(response.body_mut());
            *response.body_mut() = slowly(body, rate);
            Ok(response)
        }
        _ => Ok(response),
    }
}

/// The library's store, made stricter.
struct Store {
    files: FileSystem,
    root: PathBuf,
    /// The entity tags of the parts of each upload that is not finished.
    uploads: Mutex<HashMap<String, HashMap<i32, String>>>,
    /// The bytes of parts are counted and forgotten; objects made of them are holes.
    hollow: bool,
}

impl Store {
    fn check_upload(&self, id: &str) -> S3Result<()> {
        match self.uploads.lock().unwrap().contains_key(id) {
            true => Ok(()),
            false => Err(s3_error!(NoSuchUpload)),
        }
    }

    async fn count_part(&self, part: &mut dto::UploadPartInput) -> Answer<dto::UploadPartOutput> {
        let mut length = 0;
        while let Some(step) = part.body.as_mut().ok_or_else(|| s3_error!(IncompleteBody))?.next().await {
            length += step.map_err(|_| s3_error!(IncompleteBody))?.len() as u64;
        }
        let name = format!(".upload_id-{}.part-{}", part.upload_id, part.part_number);
        let made = std::fs::File::create(self.root.join(name)).and_then(|file| file.set_len(length));
        made.map_err(|_| s3_error!(InternalError))?;
        let e_tag = Some(dto::ETag::Strong(format!("{length:032x}")));
        Ok(S3Response::new(dto::UploadPartOutput { e_tag, ..Default::default() }))
    }

    /// What the library does, without the copy: an object that is one hole, as large as the parts are together.
    async fn complete_hollow(
        &self,
        req: S3Request<dto::CompleteMultipartUploadInput>,
        parts: usize,
    ) -> Answer<dto::CompleteMultipartUploadOutput> {
        let (bucket, key, id) = (&req.input.bucket, &req.input.key, &req.input.upload_id);
        let object = self.root.join(bucket).join(key);
        if req.input.if_none_match.is_some() && object.exists() {
            return Err(s3_error!(PreconditionFailed));
        }
        let encoded = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        let about = format!(".bucket-{}.object-{}.internal.json", encoded(bucket), encoded(key));
        let e_tag = format!("{:032x}-{parts}", 0);
        let made = || {
            let part = |number| self.root.join(format!(".upload_id-{id}.part-{number}"));
            let sizes = (1..=parts).map(|number| std::fs::metadata(part(number)).map(|file| file.len()));
            let size = sizes.sum::<std::io::Result<u64>>()?;
            // The library looks for the entity tag here, and would hash the object otherwise.
            std::fs::write(self.root.join(about), format!(r#"{{"e_tag":"{e_tag}"}}"#))?;
            let hole = self.root.join(format!(".tmp-{id}"));
            std::fs::File::create(&hole)?.set_len(size)?;
            std::fs::create_dir_all(object.parent().unwrap_or(&self.root))?;
            std::fs::rename(hole, &object)
        };
        made().map_err(|_| s3_error!(InternalError))?;
        let output = dto::CompleteMultipartUploadOutput {
            bucket: Some(bucket.clone()),
            key: Some(key.clone()),
            e_tag: Some(dto::ETag::Strong(e_tag.clone())),
            ..Default::default()
        };
        let input = dto::AbortMultipartUploadInput {
            bucket: bucket.clone(),
            key: key.clone(),
            upload_id: id.clone(),
            ..Default::default()
        };
        self.files.abort_multipart_upload(req.map_input(|_| input)).await?;
        Ok(S3Response::new(output))
    }

    /// The library takes consecutive numbers only; the service takes any that ascend.
    fn renumber(&self, id: &str, parts: &mut [dto::CompletedPart]) -> S3Result<()> {
        let uploads = self.uploads.lock().unwrap();
        let known = uploads.get(id).ok_or_else(|| s3_error!(NoSuchUpload))?;
        let mut last = 0;
        for (part, new) in parts.iter_mut().zip(1..) {
            let number = part.part_number.unwrap_or_default();
            if number <= last {
                return Err(s3_error!(InvalidPartOrder));
            }
            last = number;
            let tag = part.e_tag.as_ref().map(|tag| tag.value().to_owned());
            if known.get(&number) != tag.as_ref() {
                return Err(s3_error!(InvalidPart));
            }
            let file = |number| self.root.join(format!(".upload_id-{id}.part-{number}"));
            if number != new {
                std::fs::rename(file(number), file(new)).map_err(|_| s3_error!(InternalError))?;
            }
            part.part_number = Some(new);
        }
        Ok(())
    }
}

type Answer<T> = S3Result<S3Response<T>>;

#[async_trait::async_trait]
impl S3 for Store {
    async fn put_object(&self, req: S3Request<dto::PutObjectInput>) -> Answer<dto::PutObjectOutput> {
        // The library would make it.
        if !self.root.join(&req.input.bucket).is_dir() {
            return Err(s3_error!(NoSuchBucket));
        }
        self.files.put_object(req).await
    }

    async fn get_object(&self, req: S3Request<dto::GetObjectInput>) -> Answer<dto::GetObjectOutput> {
        self.files.get_object(req).await
    }

    async fn head_object(&self, req: S3Request<dto::HeadObjectInput>) -> Answer<dto::HeadObjectOutput> {
        self.files.head_object(req).await
    }

    async fn delete_object(&self, req: S3Request<dto::DeleteObjectInput>) -> Answer<dto::DeleteObjectOutput> {
        match self.files.delete_object(req).await {
            Err(error) if error.code().as_str() == "NoSuchKey" => Ok(S3Response::new(Default::default())),
            outcome => outcome,
        }
    }

    async fn delete_objects(
        &self,
        req: S3Request<dto::DeleteObjectsInput>,
    ) -> Answer<dto::DeleteObjectsOutput> {
        self.files.delete_objects(req).await
    }

    async fn list_objects_v2(
        &self,
        req: S3Request<dto::ListObjectsV2Input>,
    ) -> Answer<dto::ListObjectsV2Output> {
        self.files.list_objects_v2(req).await
    }

    async fn create_multipart_upload(
        &self,
        mut req: S3Request<dto::CreateMultipartUploadInput>,
    ) -> Answer<dto::CreateMultipartUploadOutput> {
        // The library has an upload belong to its access key; the service, to the bucket.
        req.credentials = None;
        let answer = self.files.create_multipart_upload(req).await?;
        let id = answer.output.upload_id.clone().unwrap_or_default();
        self.uploads.lock().unwrap().insert(id, HashMap::new());
        Ok(answer)
    }

    async fn upload_part(&self, mut req: S3Request<dto::UploadPartInput>) -> Answer<dto::UploadPartOutput> {
        // The library has an upload belong to its access key; the service, to the bucket.
        req.credentials = None;
        let (id, number) = (req.input.upload_id.clone(), req.input.part_number);
        self.check_upload(&id)?;
        let answer = match self.hollow {
            true => self.count_part(&mut req.input).await?,
            false => self.files.upload_part(req).await?,
        };
        let tag = answer.output.e_tag.as_ref().map(|tag| tag.value().to_owned()).unwrap_or_default();
        if let Some(parts) = self.uploads.lock().unwrap().get_mut(&id) {
            parts.insert(number, tag);
        }
        Ok(answer)
    }

    async fn complete_multipart_upload(
        &self,
        mut req: S3Request<dto::CompleteMultipartUploadInput>,
    ) -> Answer<dto::CompleteMultipartUploadOutput> {
        // The library has an upload belong to its access key; the service, to the bucket.
        req.credentials = None;
        let id = req.input.upload_id.clone();
        self.check_upload(&id)?;
        let parts = req.input.multipart_upload.as_mut().and_then(|upload| upload.parts.as_mut());
        let count = parts.as_ref().map_or(0, |parts| parts.len());
        if let Some(parts) = parts {
            self.renumber(&id, parts)?;
        }
        let answer = match self.hollow {
            true => self.complete_hollow(req, count).await?,
            false => self.files.complete_multipart_upload(req).await?,
        };
        self.uploads.lock().unwrap().remove(&id);
        Ok(answer)
    }

    async fn abort_multipart_upload(
        &self,
        mut req: S3Request<dto::AbortMultipartUploadInput>,
    ) -> Answer<dto::AbortMultipartUploadOutput> {
        // The library has an upload belong to its access key; the service, to the bucket.
        req.credentials = None;
        let id = req.input.upload_id.clone();
        self.check_upload(&id)?;
        let answer = self.files.abort_multipart_upload(req).await?;
        self.uploads.lock().unwrap().remove(&id);
        Ok(answer)
    }
}
