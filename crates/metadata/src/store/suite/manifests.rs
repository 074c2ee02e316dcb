//! Manifests, tags, referrers: what they hold, what holds them.

use berth_database::args;
use berth_oci::{Algorithm, Digest, ErrorCode, MediaType};
use berth_proto::metadata::{self as proto, metadata_server::Metadata as _};
use tonic::Request;

use super::{Manifest, World, answer, both, on_both_engines, refusal};

const APP: &str = "team/app";

on_both_engines!(
    a_manifest_is_stored_as_pushed,
    a_manifest_needs_its_blobs_in_its_repository,
    an_index_needs_its_children_and_holds_them,
    a_foreign_layer_is_held_if_it_is_there,
    a_held_blob_is_not_deleted,
    deleting_a_manifest_deletes_its_tags,
    deleting_a_tag_keeps_the_manifest,
    a_wrong_digest_or_document_is_refused,
    another_media_type_replaces_the_first,
    t21_referrers_with_and_without_subject,
    a_page_of_referrers_is_bounded_in_bytes,
    tags_are_listed_in_byte_order_by_page,
    what_is_dropped_goes_into_review,
);

fn absent() -> Digest {
    Digest::of(Algorithm::Sha256, b"absent")
}

async fn a_manifest_is_stored_as_pushed(world: World) {
    let blob = world.blob(APP, "{}").await;
    let manifest = Manifest::with(&[blob], &serde_json::json!({ "x-own": [1, "ä\u{0}"] }));
    let put = world.put(APP, &manifest, &["v1", "latest"]).await.unwrap();
    assert_eq!((put.subject.as_str(), put.tags.len()), ("", 2));
    let found = world.resolve_tag(APP, "v1").await;
    let content = found.content.unwrap();
    assert_eq!(content.digest, manifest.digest().to_string());
    assert_eq!(
        (content.size, content.media_type.as_str()),
        (manifest.json.len() as u64, MediaType::OCI_MANIFEST)
    );
    let request = proto::ReadManifestRequest { repository_id: found.repository_id, digest: content.digest };
    let read = answer(world.service.read_manifest(Request::new(request)).await).unwrap();
    assert_eq!(read.payload.unwrap(), manifest.json.as_bytes());
    world.put(APP, &manifest, &["v1"]).await.unwrap();
    assert_eq!(world.count(&both("SELECT count(*) FROM manifests")).await, 1);
}

async fn a_manifest_needs_its_blobs_in_its_repository(world: World) {
    let here = world.blob(APP, "here").await;
    let elsewhere = world.blob("team/other", "elsewhere").await;
    let told = world.count(&both("SELECT count(*) FROM outbox")).await;
    let problem = world.put(APP, &Manifest::image(&[here, elsewhere, absent()]), &["v1"]).await.unwrap_err();
    assert_eq!(problem.code, ErrorCode::ManifestBlobUnknown);
    let named = problem.detail.unwrap()["digests"].as_array().unwrap().len();
    assert_eq!(named, 2);
    assert!(world.resolve_tag(APP, "v1").await.content.is_none());
    assert_eq!(world.count(&both("SELECT count(*) FROM outbox")).await, told);
}

async fn an_index_needs_its_children_and_holds_them(world: World) {
    let child = world.image(APP, "child", &[]).await;
    assert_eq!(
        refusal(world.put(APP, &Manifest::index(&[child.digest(), absent()]), &[]).await),
        ErrorCode::ManifestBlobUnknown
    );
    let index = Manifest::index(&[child.digest()]);
    world.put(APP, &index, &["multi"]).await.unwrap();
    let held = world.delete_manifest(APP, &child.digest()).await.unwrap_err();
    assert_eq!(held.code, ErrorCode::Held);
    assert!(held.message.contains(&index.digest().to_string()));
    assert!(world.resolve_manifest(APP, &child.digest()).await.content.is_some());
    world.delete_manifest(APP, &index.digest()).await.unwrap();
    world.delete_manifest(APP, &child.digest()).await.unwrap();
    world.put(APP, &Manifest::index(&[]), &["empty"]).await.unwrap();
}

async fn a_foreign_layer_is_held_if_it_is_there(world: World) {
    let config = world.blob(APP, "config").await;
    let layer = world.blob(APP, "foreign").await;
    let foreign = |digest: &Digest| {
        serde_json::json!({ "layers": [{
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "digest": digest, "size": 1,
        }] })
    };
    world.put(APP, &Manifest::with(&[config], &foreign(&absent())), &[]).await.unwrap();
    world.delete_blob(APP, &layer).await.unwrap();
    // Known before its foreign layer came; pushed again, it holds it.
    world.put(APP, &Manifest::with(&[config], &foreign(&layer)), &[]).await.unwrap();
    let layer = world.blob(APP, "foreign").await;
    world.put(APP, &Manifest::with(&[config], &foreign(&layer)), &[]).await.unwrap();
    assert_eq!(refusal(world.delete_blob(APP, &layer).await), ErrorCode::Held);
}

async fn a_held_blob_is_not_deleted(world: World) {
    let manifest = world.image(APP, "config", &["v1"]).await;
    let blob = Digest::of(Algorithm::Sha256, b"config");
    let held = world.delete_blob(APP, &blob).await.unwrap_err();
    assert_eq!(held.code, ErrorCode::Held);
    assert!(held.message.contains(&manifest.digest().to_string()));
    world.delete_manifest(APP, &manifest.digest()).await.unwrap();
    world.delete_blob(APP, &blob).await.unwrap();
    assert!(world.resolve_blob(APP, &blob).await.content.is_none());
    assert_eq!(refusal(world.delete_blob(APP, &blob).await), ErrorCode::BlobUnknown);
    assert_eq!(refusal(world.delete_blob("team/none", &blob).await), ErrorCode::NameUnknown);
}

async fn deleting_a_manifest_deletes_its_tags(world: World) {
    let manifest = world.image(APP, "config", &["v1", "v2"]).await;
    world.image(APP, "another", &["v3"]).await;
    world.delete_manifest(APP, &manifest.digest()).await.unwrap();
    for tag in ["v1", "v2"] {
        assert!(world.resolve_tag(APP, tag).await.content.is_none());
    }
    assert!(world.resolve_tag(APP, "v3").await.content.is_some());
    assert_eq!(refusal(world.delete_manifest(APP, &manifest.digest()).await), ErrorCode::ManifestUnknown);
}

async fn deleting_a_tag_keeps_the_manifest(world: World) {
    let manifest = world.image(APP, "config", &["v1", "v2"]).await;
    world.delete_tag(APP, "v1").await.unwrap();
    assert_eq!(refusal(world.delete_tag(APP, "v1").await), ErrorCode::ManifestUnknown);
    assert!(world.resolve_tag(APP, "v1").await.content.is_none());
    assert!(world.resolve_tag(APP, "v2").await.content.is_some());
    assert!(world.resolve_manifest(APP, &manifest.digest()).await.content.is_some());
}

async fn a_wrong_digest_or_document_is_refused(world: World) {
    let blob = world.blob(APP, "{}").await;
    let manifest = Manifest::image(&[blob]);
    let mut request = proto::PutManifestRequest {
        access: world.access(APP),
        digest: absent().to_string(),
        media_type: manifest.media_type.to_owned(),
        payload: manifest.json.clone().into(),
        tags: vec![],
    };
    let put = |request: proto::PutManifestRequest| {
        let world = world.clone();
        async move { answer(world.service.put_manifest(Request::new(request)).await) }
    };
    assert_eq!(refusal(put(request.clone()).await), ErrorCode::DigestInvalid);
    request.digest = manifest.digest().to_string();
    request.media_type = MediaType::OCI_INDEX.to_owned();
    assert_eq!(refusal(put(request.clone()).await), ErrorCode::ManifestInvalid);
    request.media_type = manifest.media_type.to_owned();
    request.tags = vec!["-no".to_owned()];
    assert_eq!(refusal(put(request.clone()).await), ErrorCode::TagInvalid);
    let nul = Manifest::with(&[blob], &serde_json::json!({ "artifactType": "a\u{0}b" }));
    assert_eq!(refusal(world.put(APP, &nul, &[]).await), ErrorCode::ManifestInvalid);
}

async fn another_media_type_replaces_the_first(world: World) {
    let mut index = Manifest::index(&[]);
    world.put(APP, &index, &["v1"]).await.unwrap();
    index.media_type = MediaType::DOCKER_LIST;
    world.put(APP, &index, &["v1"]).await.unwrap();
    assert_eq!(world.resolve_tag(APP, "v1").await.content.unwrap().media_type, MediaType::DOCKER_LIST);
}

async fn t21_referrers_with_and_without_subject(world: World) {
    let config = world.blob(APP, "config").await;
    let subject = Manifest::image(&[config]);
    let signature = Manifest::about(&subject.digest(), &config, "application/signature");
    let put = world.put(APP, &signature, &[]).await.unwrap();
    assert_eq!(put.subject, subject.digest().to_string());
    let repository = world.resolve_manifest(APP, &signature.digest()).await.repository_id;
    assert_eq!(world.referrers(&repository, &subject.digest(), "", 10, "").await.referrers.len(), 1);
    world.put(APP, &subject, &["v1"]).await.unwrap();
    for number in 0..5 {
        let kind = if number % 2 == 0 { "application/sbom" } else { "application/signature" };
        let more = Manifest::with(
            &[config],
            &serde_json::json!({
                "artifactType": kind, "annotations": { "number": number.to_string() },
                "subject": { "mediaType": MediaType::OCI_MANIFEST, "digest": subject.digest(), "size": 1 },
            }),
        );
        world.put(APP, &more, &[]).await.unwrap();
    }
    let all = world.referrers(&repository, &subject.digest(), "", 100, "").await;
    assert_eq!((all.referrers.len(), all.more), (6, false));
    assert!(all.referrers.is_sorted_by_key(|referrer| referrer.digest.clone()));
    assert_eq!(
        world.referrers(&repository, &subject.digest(), "application/sbom", 100, "").await.referrers.len(),
        3
    );
    let (mut seen, mut last) = (Vec::new(), String::new());
    loop {
        let page = world.referrers(&repository, &subject.digest(), "", 4, &last).await;
        last = page.referrers.last().unwrap().digest.clone();
        seen.extend(page.referrers);
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, all.referrers);
    let of_signature =
        seen.iter().find(|referrer| referrer.digest == signature.digest().to_string()).unwrap();
    assert_eq!(of_signature.annotations["made.by"], "a test");
    assert_eq!(of_signature.artifact_type, "application/signature");
    // The subject is not kept by its referrers; they go into review with it.
    world.stage(&[both("DELETE FROM manifest_review_queue")], args![]).await;
    world.delete_manifest(APP, &subject.digest()).await.unwrap();
    assert_eq!(world.count(&both("SELECT count(*) FROM manifest_review_queue")).await, 6);
}

async fn tags_are_listed_in_byte_order_by_page(world: World) {
    let names = ["A", "B", "Z", "_x", "a", "a-1", "a.1", "b"];
    world.image(APP, "config", &names).await;
    let repository = world.resolve_tag(APP, "a").await.repository_id;
    let list = |last, limit| world.tags(&repository, last, limit);
    let mut sorted = names.map(str::to_owned).to_vec();
    sorted.sort_unstable();
    let all = list("", 100).await;
    assert_eq!((all.tags, all.more), (sorted.clone(), false));
    let page = list("B", 3).await;
    assert_eq!((page.tags, page.more), (sorted[2..5].to_vec(), true));
    let none = list("", 0).await;
    assert_eq!((none.tags.len(), none.more), (0, true));
    assert!(list("zzz\0\u{ffff}", 5).await.tags.is_empty());
}

async fn what_is_dropped_goes_into_review(world: World) {
    let first = world.image(APP, "one", &["v1"]).await;
    let clear = &[
        both("DELETE FROM manifest_review_queue"),
        both("DELETE FROM link_review_queue"),
        both("DELETE FROM blob_review_queue"),
    ];
    world.stage(clear, args![]).await;
    world.image(APP, "two", &[]).await;
    world.stage(clear, args![]).await;
    let second = Manifest::image(&[Digest::of(Algorithm::Sha256, b"two")]);
    world.put(APP, &second, &["v1"]).await.unwrap();
    // The tag's old manifest and the pushed one.
    assert_eq!(world.count(&both("SELECT count(*) FROM manifest_review_queue")).await, 2);
    world.stage(clear, args![]).await;
    world.delete_manifest(APP, &first.digest()).await.unwrap();
    assert_eq!(world.count(&both("SELECT count(*) FROM link_review_queue")).await, 1);
    world.delete_blob(APP, &Digest::of(Algorithm::Sha256, b"one")).await.unwrap();
    assert_eq!(world.count(&both("SELECT count(*) FROM link_review_queue")).await, 0);
    assert_eq!(world.count(&both("SELECT count(*) FROM blob_review_queue")).await, 1);
}

async fn a_page_of_referrers_is_bounded_in_bytes(world: World) {
    let config = world.blob(APP, "config").await;
    let subject = Manifest::image(&[config]).digest();
    let large = "x".repeat(2_500_000);
    for number in 0..5 {
        let more = serde_json::json!({
            "artifactType": if number == 0 { "application/rare" } else { "application/sbom" },
            "subject": { "mediaType": "application/x", "digest": subject, "size": 3 },
            "annotations": { "number": number.to_string(), "large": large },
        });
        world.put(APP, &Manifest::with(&[config], &more), &[]).await.unwrap();
    }
    let repository = world.resolve_tag(APP, "none").await.repository_id;
    let mut sizes = Vec::new();
    let mut last = String::new();
    loop {
        let page = world.referrers(&repository, &subject, "", 100, &last).await;
        sizes.push(page.referrers.len());
        last = page.referrers.last().unwrap().digest.clone();
        if !page.more {
            break;
        }
    }
    assert_eq!(sizes, [2, 2, 1]);
    let rare = world.referrers(&repository, &subject, "application/rare", 100, "").await;
    assert_eq!((rare.referrers.len(), rare.more), (1, false));
    assert_eq!(rare.referrers[0].annotations["large"].len(), large.len());
}
