//! What HTTP itself asks for: HEAD like GET, ranges, conditions, methods, locations.

use berth_testkit::{Client, Content, Repository, in_every_setting, raw};
use reqwest::{Method, header::HeaderMap};

use crate::own;

/// The headers that are a resource's own, not a connection's or a request's.
fn essential(headers: &HeaderMap) -> Vec<(String, String)> {
    let own = |name: &str| !["date", "x-request-id", "connection", "accept-ranges"].contains(&name);
    let mut kept: Vec<_> = headers
        .iter()
        .filter(|(name, _)| own(name.as_str()))
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    kept.sort_unstable();
    kept
}

async fn conditional(
    repository: &Repository,
    method: Method,
    target: &str,
    headers: &[(&str, &str)],
) -> berth_testkit::Reply {
    let mut call = repository.call(method, target).await.unwrap();
    for (name, value) in headers {
        call = call.header(name, value);
    }
    call.send().await.unwrap()
}

in_every_setting! {
    async fn head_says_what_get_would_and_has_no_body(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "http-head");
        let image = content.image(1, 1000);
        repository.push_image("v1", &image).await.unwrap().expect(201).unwrap();
        let upload = repository.start_upload().await.unwrap();
        let layer = image.layers[0].digest;
        let targets = [
            "/v2/".to_owned(),
            "/v2/_catalog".to_owned(),
            "/.well-known/jwks.json".to_owned(),
            "/no-such-resource".to_owned(),
            "/v2/http-head/app/manifests/v1".to_owned(),
            format!("/v2/http-head/app/manifests/{}", image.manifest.digest),
            "/v2/http-head/app/manifests/absent".to_owned(),
            format!("/v2/http-head/app/blobs/{layer}"),
            format!("/v2/http-head/app/blobs/{}", content.layer(1).digest),
            "/v2/http-head/app/blobs/sha256:short".to_owned(),
            "/v2/http-head/app/tags/list".to_owned(),
            "/v2/http-head/app/tags/list?n=x".to_owned(),
            format!("/v2/http-head/app/referrers/{}", image.manifest.digest),
            "/v2/HTTP/manifests/v1".to_owned(),
            upload,
        ];
        let token = deployment.client().fresh_token(&["repository:http-head/app:pull,push", "registry:catalog:*"]).await.unwrap();
        for client in [Client::new(deployment.url()), Client::new(deployment.url()).over_http2()] {
            for bearer in [Some(&token), None] {
                for target in &targets {
                    let ask = async |method: Method| {
                        let call = client.call(method, target.as_str());
                        let call = match bearer {
                            Some(token) => call.bearer(token),
                            None => call,
                        };
                        call.send().await.unwrap()
                    };
                    let (get, head) = (ask(Method::GET).await, ask(Method::HEAD).await);
                    assert_eq!((get.status, essential(&get.headers)), (head.status, essential(&head.headers)), "{target}");
                    assert!(head.body.is_empty(), "{target}");
                    assert!(get.headers.contains_key("content-length") || get.status == 204, "{target}");
                }
            }
        }
    }

    async fn a_large_blob_is_the_same_each_time_it_is_read_whole_or_in_part(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "http-large");
        // More than one window of what the kernel sends by itself.
        let blob = content.layer(9 << 20);
        repository.push_blob(&blob).await.unwrap().expect(201).unwrap();
        let target = format!("blobs/{}", blob.digest);
        let get = async |headers: &[(&str, &str)]| conditional(&repository, Method::GET, &target, headers).await;
        // The first read hashes a file; the ones after it trust it.
        for _ in 0..3 {
            let whole = get(&[]).await;
            assert!(whole.status == 200 && whole.body == blob.bytes);
        }
        for (first, last) in [(0, 0), (1, 4096), (5000, (8 << 20) + 77), ((8 << 20) - 1, (9 << 20) - 1)] {
            let part = get(&[("range", &format!("bytes={first}-{last}"))]).await;
            assert!(part.status == 206 && part.body == blob.bytes.slice(first..=last), "{first}-{last}");
        }
    }

    async fn conditions_and_ranges_follow_the_rfc(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "http-ranges");
        let image = content.image(1, 1000);
        repository.push_image("v1", &image).await.unwrap().expect(201).unwrap();
        let layer = &image.layers[0];
        let blob = format!("blobs/{}", layer.digest);
        let etag = format!("\"{}\"", layer.digest);
        let get = async |headers: &[(&str, &str)]| conditional(&repository, Method::GET, &blob, headers).await;
        let whole = get(&[]).await;
        assert_eq!((whole.status, whole.header("etag"), whole.header("accept-ranges")), (200, Some(etag.as_str()), Some("bytes")));
        let part = get(&[("range", "bytes=10-19"), ("if-range", &etag)]).await;
        assert_eq!((part.status, part.header("content-range"), part.header("content-length")), (206, Some("bytes 10-19/1000"), Some("10")));
        assert_eq!(part.body, layer.bytes.slice(10..20));
        for other in ["\"other\"", "Wed, 21 Oct 2015 07:28:00 GMT", &format!("W/{etag}")] {
            assert_eq!(get(&[("range", "bytes=10-19"), ("if-range", other)]).await.status, 200, "{other}");
        }
        let outside = get(&[("range", "bytes=1000-")]).await;
        assert_eq!((outside.status, outside.header("content-range")), (416, Some("bytes */1000")));
        // Only GET has ranges.
        let head = conditional(&repository, Method::HEAD, &blob, &[("range", "bytes=10-19")]).await;
        assert_eq!((head.status, head.header("content-length")), (200, Some("1000")));
        // What the client has is not sent again, part or whole.
        let digest = image.manifest.digest;
        for (target, etag) in [(blob.clone(), etag.clone()), (format!("manifests/{digest}"), format!("\"{digest}\"")), ("manifests/v1".to_owned(), format!("\"{digest}\""))] {
            let full = repository.get(&target).await.unwrap();
            for condition in [etag.as_str(), "*", &format!("W/{etag}"), &format!("\"a\", {etag}")] {
                for method in [Method::GET, Method::HEAD] {
                    let same = conditional(&repository, method, &target, &[("if-none-match", condition), ("range", "bytes=0-1")]).await;
                    assert_eq!((same.status, same.body.len()), (304, 0), "{target} {condition}");
                    for name in ["etag", "cache-control", "docker-content-digest"] {
                        assert_eq!(same.header(name), full.header(name), "{target} {name}");
                    }
                }
            }
            assert_eq!(conditional(&repository, Method::GET, &target, &[("if-none-match", "\"other\"")]).await.status, 200);
        }
    }

    async fn every_challenge_names_the_scope_that_is_missing(deployment: &'static Deployment) {
        let client = deployment.anonymous();
        for (method, target, scope) in [
            (Method::GET, "/v2/_catalog", "registry:catalog:*"),
            (Method::GET, "/v2/http-scope/app/tags/list", "repository:http-scope/app:pull"),
            (Method::POST, "/v2/http-scope/app/blobs/uploads/", "repository:http-scope/app:pull,push"),
            (Method::DELETE, "/v2/http-scope/app/manifests/v1", "repository:http-scope/app:delete"),
        ] {
            let token = client.fresh_token(&[]).await.unwrap();
            for call in [client.call(method.clone(), target), client.call(method.clone(), target).bearer(token)] {
                let reply = call.send().await.unwrap();
                let challenge = reply.header("www-authenticate").unwrap_or_default();
                assert_eq!(reply.status, 401);
                assert!(challenge.contains(&format!("scope=\"{scope}\"")), "{challenge}");
            }
        }
    }

    async fn what_is_no_request_is_answered_and_closed(deployment: &'static Deployment) {
        // The begin of a TLS handshake: clients fall back to plain HTTP by the answer, not by silence.
        let mut handshake = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
        handshake.resize(517, b'a');
        for bytes in [handshake.as_slice(), b"GET /v2/ HTP/9\r\n\r\n"] {
            let reply = raw::exchange(deployment.address(), bytes).await.unwrap();
            assert_eq!((reply.status, reply.header("connection")), (400, Some("close")));
        }
    }

    async fn methods_that_are_not_there_are_named(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "http-methods");
        let image = content.image(1, 10);
        repository.push_image("v1", &image).await.unwrap().expect(201).unwrap();
        let blob = format!("blobs/{}", image.layers[0].digest);
        for (method, target, allow) in [
            (Method::POST, "manifests/v1", "GET, HEAD, PUT, DELETE"),
            (Method::OPTIONS, "manifests/v1", "GET, HEAD, PUT, DELETE"),
            (Method::PUT, "tags/list", "GET, HEAD"),
            (Method::GET, "blobs/uploads/", "POST"),
            (Method::PUT, blob.as_str(), "GET, HEAD, DELETE"),
            (Method::DELETE, blob.as_str(), "GET, HEAD"),
        ] {
            let refused = conditional(&repository, method, target, &[]).await;
            assert_eq!((refused.status, refused.header("allow")), (405, Some(allow)), "{target}");
        }
        let token = deployment.client().call(Method::PUT, "/token").send().await.unwrap();
        assert_eq!((token.status, token.header("allow")), (405, Some("GET, POST")));
    }

    async fn one_segment_names_lead_back_to_themselves(deployment: &'static Deployment) {
        let mut content = Content::named("http-one-segment");
        let repository = deployment.client().repository("http-one-segment");
        let image = content.image(1, 10);
        repository.push_image("v1", &image).await.unwrap().expect(201).unwrap();
        repository.push_image("v2", &image).await.unwrap().expect(201).unwrap();
        let upload = repository.start_upload().await.unwrap();
        assert!(upload.starts_with("/v2/http-one-segment/blobs/uploads/"), "{upload}");
        let blob = content.layer(100);
        let patched = repository.patch(&upload, Some(0), blob.bytes.clone()).await.unwrap();
        assert_eq!(patched.location().unwrap(), upload);
        let closed = repository.finish(&upload, &blob.digest.to_string(), bytes::Bytes::new()).await.unwrap();
        assert_eq!(closed.location().unwrap(), format!("/v2/http-one-segment/blobs/{}", blob.digest));
        let put = repository.put_manifest("v3", &image.manifest).await.unwrap();
        assert_eq!(put.location().unwrap(), format!("/v2/http-one-segment/manifests/{}", image.manifest.digest));
        let page = repository.get("tags/list?n=1").await.unwrap();
        assert_eq!(page.json()["name"], "http-one-segment");
        assert_eq!(page.next_page().unwrap(), "/v2/http-one-segment/tags/list?n=1&last=v1");
        assert_eq!(repository.tags().await.unwrap(), ["v1", "v2", "v3"]);
        // The same repository by its long name.
        deployment.client().repository("library/http-one-segment").pull_image("v1", &image).await.unwrap();
        let stranger = deployment.anonymous().call(Method::GET, "/v2/http-one-segment/tags/list").send().await.unwrap();
        assert!(stranger.header("www-authenticate").unwrap().contains("scope=\"repository:http-one-segment:pull\""));
    }

    async fn an_upload_that_was_one_request_leaves_no_trace_when_it_fails(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "http-one-request");
        let (blob, other) = (content.layer(1000), content.layer(1000));
        let target = format!("blobs/uploads/?digest={}", blob.digest);
        let call = repository.call(Method::POST, &target).await.unwrap().body(other.bytes.clone());
        let wrong = call.send().await.unwrap();
        assert_eq!((wrong.status, wrong.error_code().as_deref()), (400, Some("DIGEST_INVALID")));
        // There is no session to go on with, so none is named.
        let call = repository.call(Method::POST, &target).await.unwrap().header("content-range", "5-1004");
        let misplaced = call.body(blob.bytes.clone()).send().await.unwrap();
        assert_eq!(misplaced.status, 416);
        assert_eq!((misplaced.header("location"), misplaced.header("range")), (None, None));
        assert!(!repository.has_blob(&blob.digest).await.unwrap() && !repository.has_blob(&other.digest).await.unwrap());
        repository.push_blob_at_once(&blob).await.unwrap();
        repository.pull_blob(&blob).await.unwrap();
    }

    async fn a_refusal_reaches_a_client_that_is_still_sending(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "http-refused");
        let body = content.bytes(8_000_000);
        let upload = repository.start_upload().await.unwrap();
        let anonymous = deployment.anonymous();
        for (method, target, status) in [
            (Method::PATCH, upload.as_str(), 401),
            (Method::PUT, upload.as_str(), 401),
            (Method::POST, "/v2/http-refused/app/blobs/uploads/", 401),
            (Method::PUT, "/v2/http-refused/app/manifests/v1", 401),
            (Method::PUT, "/no-such-resource", 404),
        ] {
            let reply = anonymous.call(method, target).body(body.clone()).send().await.unwrap();
            assert_eq!(reply.status, status, "{target}");
        }
        let reply = repository.call(Method::PUT, &upload).await.unwrap().body(body.clone()).send().await.unwrap();
        assert_eq!((reply.status, reply.error_code().as_deref()), (400, Some("DIGEST_INVALID")));
        // Who asks before it sends is not made to send.
        let address = deployment.address();
        let head = format!("PATCH {upload} HTTP/1.1\r\nHost: {address}\r\nExpect: 100-continue\r\nContent-Length: 8000000\r\n\r\n");
        assert_eq!(raw::exchange(address, head).await.unwrap().status, 401);
    }

    async fn a_push_by_tag_may_announce_its_digest(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "http-announced");
        let (image, other) = (content.image(1, 10), content.image(1, 10));
        repository.push_image("v1", &image).await.unwrap().expect(201).unwrap();
        let announced = async |digest: String| repository.put_manifest(&format!("v2?digest={digest}"), &image.manifest).await.unwrap();
        for wrong in [other.manifest.digest.to_string(), "sha256:abc".to_owned()] {
            let refused = announced(wrong).await;
            assert_eq!((refused.status, refused.error_code().as_deref()), (400, Some("DIGEST_INVALID")));
        }
        assert_eq!(repository.tags().await.unwrap(), ["v1"]);
        let long = berth_oci::Digest::of(berth_oci::Algorithm::Sha512, &image.manifest.bytes).to_string();
        let reply = announced(long.clone()).await.expect(201).unwrap();
        assert_eq!(reply.header("docker-content-digest"), Some(long.as_str()));
        assert_eq!(repository.tags().await.unwrap(), ["v1", "v2"]);
    }
}
