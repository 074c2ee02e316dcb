//! T18: digests and sizes that do not fit.

use berth_oci::{Algorithm, Digest};
use berth_testkit::in_every_setting;
use bytes::Bytes;
use reqwest::Method;

use crate::own;

in_every_setting! {
    async fn t18_content_that_is_not_its_digest_is_not_stored(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t18-wrong");
        let (blob, claimed) = (content.layer(10_000), content.layer(10));
        let upload = repository.start_upload().await.unwrap();
        let refused = repository.finish(&upload, &claimed.digest.to_string(), blob.bytes.clone()).await.unwrap();
        assert_eq!((refused.status, refused.error_code().as_deref()), (400, Some("DIGEST_INVALID")));
        assert!(!repository.has_blob(&claimed.digest).await.unwrap());
        assert!(!repository.has_blob(&blob.digest).await.unwrap());
        // The session is gone or still usable, and says so.
        let state = repository.get(&upload).await.unwrap();
        assert!([204, 404].contains(&state.status), "{}", state.status);
        let at_once = repository.call(Method::POST, &format!("blobs/uploads/?digest={}", claimed.digest)).await.unwrap();
        let refused = at_once.body(blob.bytes.clone()).send().await.unwrap();
        assert_eq!((refused.status, refused.error_code().as_deref()), (400, Some("DIGEST_INVALID")));
        assert!(!repository.has_blob(&claimed.digest).await.unwrap());
        // The right one still goes.
        repository.push_blob(&blob).await.unwrap();
        repository.pull_blob(&blob).await.unwrap();
        // A manifest pushed under another's digest.
        let (one, other) = (content.image(0, 0), content.image(0, 0));
        repository.push_blob(&one.config).await.unwrap();
        let refused = repository.put_manifest(&other.manifest.digest.to_string(), &one.manifest).await.unwrap();
        assert_eq!((refused.status, refused.error_code().as_deref()), (400, Some("DIGEST_INVALID")));
        repository.manifest(&other.manifest.digest.to_string()).await.unwrap().expect(404).unwrap();
    }

    async fn t18_an_empty_chunk_fixes_no_algorithm(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t18-empty-chunk");
        for size in [0, 1000] {
            let blob = content.layer(size);
            let digest = Digest::of(Algorithm::Sha512, &blob.bytes);
            let upload = repository.start_upload().await.unwrap();
            repository.patch(&upload, None, Bytes::new()).await.unwrap().expect(202).unwrap();
            repository.finish(&upload, &digest.to_string(), blob.bytes.clone()).await.unwrap().expect(201).unwrap();
            let pulled = repository.get(&format!("blobs/{digest}")).await.unwrap().expect(200).unwrap();
            assert_eq!(pulled.body, blob.bytes);
        }
    }

    async fn t18_texts_that_are_no_digest_are_refused_everywhere(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t18-texts");
        let blob = content.layer(1000);
        repository.push_blob(&blob).await.unwrap();
        let hex = blob.digest.to_string()["sha256:".len()..].to_owned();
        for wrong in [
            format!("sha256:{}", hex.to_uppercase()),
            format!("SHA256:{hex}"),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("sha512:{hex}"),
            format!("md5:{}", &hex[..32]),
            format!("sha256:{}", "g".repeat(64)),
            "sha256:".to_owned(),
            hex.clone(),
            format!("sha256%3A%20{hex}"),
        ] {
            let upload = repository.start_upload().await.unwrap();
            let refused = repository.finish(&upload, &wrong, blob.bytes.clone()).await.unwrap();
            assert_eq!((refused.status, refused.error_code().as_deref()), (400, Some("DIGEST_INVALID")), "PUT {wrong}");
            let refused = repository.get(&format!("blobs/{wrong}")).await.unwrap();
            assert_eq!((refused.status, refused.error_code().as_deref()), (400, Some("DIGEST_INVALID")), "GET {wrong}");
        }
        let upload = repository.start_upload().await.unwrap();
        let call = repository.call(Method::PUT, &upload).await.unwrap();
        assert_eq!(call.body(blob.bytes.clone()).send().await.unwrap().status, 400, "a PUT without a digest");
    }

    async fn t18_a_size_that_does_not_fit_is_refused(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t18-size");
        let blob = content.layer(1000);
        let upload = repository.start_upload().await.unwrap();
        for range in ["0-998", "0-1000"] {
            let call = repository.call(Method::PATCH, &upload).await.unwrap().header("content-range", range);
            assert_eq!(call.body(blob.bytes.clone()).send().await.unwrap().status, 400, "{range}");
            let target = format!("{upload}?digest={}", blob.digest);
            let call = repository.call(Method::PUT, &target).await.unwrap().header("content-range", range);
            assert_eq!(call.body(blob.bytes.clone()).send().await.unwrap().status, 400, "{range}");
        }
        assert_eq!(repository.get(&upload).await.unwrap().session_bytes(), Some(0));
        repository.finish(&upload, &blob.digest.to_string(), blob.bytes.clone()).await.unwrap().expect(201).unwrap();
        repository.pull_blob(&blob).await.unwrap();
    }

    async fn t18_each_algorithm_verifies_its_own_digest_and_is_no_alias(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t18-algorithms");
        let blob = content.layer(100_000);
        let long = Digest::of(Algorithm::Sha512, &blob.bytes);
        // Asked for explicitly, another algorithm's digest is refused.
        for (asked, digest) in [("sha512", blob.digest), ("sha256", long)] {
            let call = repository.call(Method::POST, &format!("blobs/uploads/?digest-algorithm={asked}")).await.unwrap();
            let upload = call.send().await.unwrap().expect(202).unwrap().location().unwrap();
            repository.patch(&upload, None, blob.bytes.clone()).await.unwrap().expect(202).unwrap();
            let refused = repository.finish(&upload, &digest.to_string(), Bytes::new()).await.unwrap();
            assert_eq!((refused.status, refused.error_code().as_deref()), (400, Some("DIGEST_INVALID")), "{asked}");
        }
        let unknown = repository.call(Method::POST, "blobs/uploads/?digest-algorithm=md5").await.unwrap();
        assert_eq!(unknown.send().await.unwrap().status, 400);
        // sha512 in each way: asked for, with the first byte, and only at the close.
        let call = repository.call(Method::POST, "blobs/uploads/?digest-algorithm=sha512").await.unwrap();
        let upload = call.send().await.unwrap().expect(202).unwrap().location().unwrap();
        let upload = repository.patch(&upload, None, blob.bytes.slice(..50_000)).await.unwrap().location().unwrap();
        let last = blob.bytes.slice(50_000..);
        repository.finish(&upload, &long.to_string(), last).await.unwrap().expect(201).unwrap();
        let reply = repository.get(&format!("blobs/{long}")).await.unwrap().expect(200).unwrap();
        assert_eq!(reply.body, blob.bytes);
        assert_eq!(reply.header("docker-content-digest"), Some(long.to_string().as_str()));
        assert!(!repository.has_blob(&blob.digest).await.unwrap(), "no alias under another algorithm");
        for chunks in [false, true] {
            let other = content.layer(70_000);
            let long = Digest::of(Algorithm::Sha512, &other.bytes);
            let mut upload = repository.start_upload().await.unwrap();
            let mut rest = other.bytes.clone();
            if chunks {
                let first = rest.split_to(30_000);
                upload = repository.patch(&upload, Some(0), first).await.unwrap().expect(202).unwrap().location().unwrap();
            }
            repository.finish(&upload, &long.to_string(), rest).await.unwrap().expect(201).unwrap();
            assert_eq!(repository.get(&format!("blobs/{long}")).await.unwrap().body, other.bytes);
            assert!(!repository.has_blob(&other.digest).await.unwrap());
        }
        // A wrong sha512 is as wrong.
        let wrong = Digest::of(Algorithm::Sha512, b"something else");
        let upload = repository.start_upload().await.unwrap();
        let refused = repository.finish(&upload, &wrong.to_string(), blob.bytes.clone()).await.unwrap();
        assert_eq!((refused.status, refused.error_code().as_deref()), (400, Some("DIGEST_INVALID")));
    }
}
