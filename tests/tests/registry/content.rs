//! T28, T29, T30: hostile manifests.

use berth_oci::MediaType;
use berth_testkit::{Blob, Deployment, Repository, descriptor, in_every_setting};
use reqwest::Method;
use serde_json::json;

use crate::own;

const MANIFEST: &str = MediaType::OCI_MANIFEST;
const INDEX: &str = MediaType::OCI_INDEX;
const LIMIT: usize = 4 * 1024 * 1024;

async fn refused(repository: &Repository, manifest: &Blob, what: &str) -> (u16, String) {
    let reply = repository.put_manifest("hostile", manifest).await.unwrap();
    assert!((400..500).contains(&reply.status), "{what}: {} {:?}", reply.status, reply.body);
    (reply.status, reply.error_code().unwrap_or_default())
}

fn invalid() -> (u16, String) {
    (400, "MANIFEST_INVALID".to_owned())
}

/// A manifest with an annotation that makes it exactly `size` bytes.
fn padded(config: &Blob, size: usize) -> Blob {
    let manifest = |padding: usize| {
        let annotations = json!({ "padding": "x".repeat(padding) });
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(config), "layers": [], "annotations": annotations })
            .to_string()
    };
    let bytes = manifest(size - manifest(0).len());
    assert_eq!(bytes.len(), size);
    Blob::new(MANIFEST, bytes)
}

in_every_setting! {
    async fn t28_four_mebibytes_are_accepted_and_one_byte_more_is_not(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t28-size");
        let config = content.image(0, 0).config;
        repository.push_blob(&config).await.unwrap();
        let largest = padded(&config, LIMIT);
        repository.put_manifest("largest", &largest).await.unwrap().expect(201).unwrap();
        assert_eq!(repository.manifest("largest").await.unwrap().expect(200).unwrap().body, largest.bytes);
        let (status, code) = refused(&repository, &padded(&config, LIMIT + 1), "4 MiB + 1").await;
        assert_eq!((status, code.as_str()), (413, "SIZE_INVALID"));
        // Without a length, the bytes are counted as they come.
        let stream = futures::stream::iter((0..65).map(|_| Ok::<_, std::io::Error>(" ".repeat(65_536))));
        let call = repository.call(Method::PUT, "manifests/streamed").await.unwrap().header("content-type", MANIFEST);
        let reply = call.body(reqwest::Body::wrap_stream(stream)).send().await;
        // The connection may be closed before all of it was sent.
        assert!(reply.is_err() || reply.is_ok_and(|reply| reply.status == 413));
        let layer = descriptor(&config).to_string();
        let million = format!(r#"{{"schemaVersion":2,"config":{layer},"layers":[{}]}}"#, vec![layer.as_str(); 1_000_000].join(","));
        let call = repository.call(Method::PUT, "manifests/million").await.unwrap().header("content-type", MANIFEST);
        let reply = call.body(million).send().await;
        assert!(reply.is_err() || reply.is_ok_and(|reply| reply.status == 413));
        repository.manifest("hostile").await.unwrap().expect(404).unwrap();
    }

    async fn t28_bytes_come_back_as_they_were_sent(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t28-bytes");
        let image = content.image(1, 100);
        for blob in image.blobs() {
            repository.push_blob(blob).await.unwrap();
        }
        let (config, layer) = (descriptor(&image.config), descriptor(&image.layers[0]));
        let odd = format!(
            "\n{{ \"unknown\" : {{\"deep\":[[[[1e3]]]]}},\t\"layers\" : [{layer}] , \"config\":{config},\"schemaVersion\"\r\n:2,\
             \"annotations\":{{\"\\u0062\\u00e9\":\"\u{1F6A2} \\ud83d\\udea2\",\"empty\":\"\"}}}}  \n\n"
        );
        let manifest = Blob::new(MANIFEST, odd);
        repository.put_manifest("odd", &manifest).await.unwrap().expect(201).unwrap();
        for reference in ["odd", &manifest.digest.to_string()] {
            let reply = repository.manifest(reference).await.unwrap().expect(200).unwrap();
            assert_eq!(reply.body, manifest.bytes);
            assert_eq!(reply.header("docker-content-digest"), Some(manifest.digest.to_string().as_str()));
            let head = repository.head(&format!("manifests/{reference}")).await.unwrap().expect(200).unwrap();
            assert_eq!(head.header("content-length"), Some(manifest.size().to_string().as_str()));
            assert_eq!(head.header("content-type"), Some(MANIFEST));
        }
    }

    async fn t28_hostile_json_is_refused(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t28-json");
        let image = content.image(0, 0);
        repository.push_image("v1", &image).await.unwrap();
        let config = descriptor(&image.config).to_string();
        let layer = |size: &str| format!(r#"{{"mediaType":"x/y","digest":"{}","size":{size}}}"#, image.config.digest);
        let with_layers = |layers: &str| format!(r#"{{"schemaVersion":2,"config":{config},"layers":[{layers}]}}"#);
        let mut cases = vec![
            ("depth 10^5", format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"x":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000))),
            ("objects 10^5 deep", format!("{}1{}", r#"{"a":"#.repeat(100_000), "}".repeat(100_000))),
            ("unclosed", "[".repeat(1_000_000)),
            ("duplicate keys", format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"layers":[]}}"#)),
            ("a byte order mark", format!("\u{feff}{}", with_layers(""))),
            ("10^4 + 1 layers", with_layers(&vec![layer("1"); 10_001].join(","))),
            ("nothing", String::new()),
            ("no object", "[]".to_owned()),
            ("null", "null".to_owned()),
            ("text after the end", format!("{} x", with_layers(""))),
            ("no schemaVersion", format!(r#"{{"config":{config},"layers":[]}}"#)),
            ("schemaVersion 1", format!(r#"{{"schemaVersion":1,"config":{config},"layers":[]}}"#)),
            ("a digest that is none", with_layers(r#"{"mediaType":"x/y","digest":"sha256:abc","size":1}"#)),
        ];
        for size in ["-1", "9223372036854775808", "18446744073709551616", "1e400", "NaN", "Infinity", "1.5", "\"1\"", "null"] {
            cases.push(("a size", with_layers(&layer(size))));
        }
        let annotations: Vec<_> = (0..10_001).map(|number| format!("\"a{number}\":\"\"")).collect();
        let annotations = annotations.join(",");
        cases.push(("10^4 + 1 annotations", format!(r#"{{"schemaVersion":2,"config":{config},"layers":[],"annotations":{{{annotations}}}}}"#)));
        for (what, json) in cases {
            assert_eq!(refused(&repository, &Blob::new(MANIFEST, json), what).await, invalid(), "{what}");
        }
        let bytes = [b"{\"schemaVersion\":2,\"x\":\"".as_slice(), &[0xff, 0xfe], b"\"}"].concat();
        assert_eq!(refused(&repository, &Blob::new(MANIFEST, bytes), "no UTF-8").await, invalid());
        // Everything else goes on as before.
        repository.pull_image("v1", &image).await.unwrap();
        repository.manifest("hostile").await.unwrap().expect(404).unwrap();
    }

    async fn t28_what_a_manifest_names_has_to_be_there(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t28-absent");
        let image = content.image(2, 100);
        repository.push_blob(&image.config).await.unwrap();
        repository.push_blob(&image.layers[0]).await.unwrap();
        let (status, code) = refused(&repository, &image.manifest, "a layer is missing").await;
        assert_eq!((status, code.as_str()), (404, "MANIFEST_BLOB_UNKNOWN"));
        repository.push_blob(&image.layers[1]).await.unwrap();
        repository.put_manifest("v1", &image.manifest).await.unwrap().expect(201).unwrap();
    }

    async fn t29_deep_indexes_cost_nothing_on_the_way(deployment: &'static Deployment) {
        nested(deployment, "t29-deep", 100).await;
    }

    #[ignore = "long"]
    async fn t29_long_a_thousand_indexes_deep(deployment: &'static Deployment) {
        nested(deployment, "t29-deep-long", 1000).await;
    }

    async fn t29_wide_indexes_hold_their_children(deployment: &'static Deployment) {
        wide(deployment, "t29-wide", 400).await;
    }

    #[ignore = "long"]
    async fn t29_long_ten_thousand_children(deployment: &'static Deployment) {
        wide(deployment, "t29-wide-long", 10_000).await;
    }

    async fn t29_a_tag_may_lead_to_an_index_of_its_own_past(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t29-self");
        let image = content.image(0, 0);
        repository.push_image("self", &image).await.unwrap();
        let mut current = image.manifest.clone();
        for _ in 0..10 {
            let index = content.index(&[&current]);
            repository.put_manifest("self", &index).await.unwrap().expect(201).unwrap();
            let pulled = repository.manifest("self").await.unwrap().expect(200).unwrap();
            assert_eq!(pulled.body, index.bytes);
            // Held by the index that the tag leads to now.
            let held = repository.delete(&format!("manifests/{}", current.digest)).await.unwrap();
            assert_eq!((held.status, held.error_code().as_deref()), (405, Some("DENIED")));
            current = index;
        }
        repository.pull_image(&image.manifest.digest.to_string(), &image).await.unwrap();
    }

    async fn t30_a_document_is_one_thing(deployment: &'static Deployment) {
        let (repository, mut content) = own(deployment, "t30");
        let image = content.image(1, 100);
        repository.push_image("v1", &image).await.unwrap();
        let (config, layer, child) = (descriptor(&image.config), descriptor(&image.layers[0]), descriptor(&image.manifest));
        for (what, content_type, document) in [
            ("both, as an image", MANIFEST, json!({ "schemaVersion": 2, "config": config, "layers": [layer], "manifests": [child] })),
            ("both, as an index", INDEX, json!({ "schemaVersion": 2, "config": config, "layers": [layer], "manifests": [child] })),
            ("an index with layers", INDEX, json!({ "schemaVersion": 2, "manifests": [child], "layers": [] })),
            ("an image with manifests", MANIFEST, json!({ "schemaVersion": 2, "config": config, "layers": [], "manifests": [] })),
            ("an index as an image", MANIFEST, json!({ "schemaVersion": 2, "manifests": [child] })),
            ("an image as an index", INDEX, json!({ "schemaVersion": 2, "config": config, "layers": [] })),
            ("both, as something else", "application/vnd.example+json", json!({ "schemaVersion": 2, "config": config, "manifests": [] })),
            ("mediaType and Content-Type differ", MANIFEST, json!({ "schemaVersion": 2, "mediaType": MediaType::DOCKER_MANIFEST, "config": config, "layers": [] })),
            ("mediaType says index", MANIFEST, json!({ "schemaVersion": 2, "mediaType": INDEX, "config": config, "layers": [] })),
            ("schema 1", MediaType::DOCKER_SCHEMA1_SIGNED, json!({ "schemaVersion": 1, "name": "x", "tag": "y" })),
        ] {
            let (status, code) = refused(&repository, &Blob::json(content_type, &document), what).await;
            assert_eq!((status, code.as_str()), (400, "MANIFEST_INVALID"), "{what}");
        }
        // Parameters are ignored, the type is not.
        let mut with_parameters = image.manifest.clone();
        with_parameters.media_type = format!("{MANIFEST}; charset=utf-8");
        repository.put_manifest("parameters", &with_parameters).await.unwrap().expect(201).unwrap();
        let pulled = repository.manifest("parameters").await.unwrap().expect(200).unwrap();
        assert_eq!((pulled.header("content-type"), &pulled.body), (Some(MANIFEST), &image.manifest.bytes));
        for content_type in ["", "json", "a/b/c"] {
            let call = repository.call(Method::PUT, "manifests/hostile").await.unwrap().header("content-type", content_type);
            assert_eq!(call.body(image.manifest.bytes.clone()).send().await.unwrap().status, 400, "{content_type:?}");
        }
    }
}

async fn nested(deployment: &Deployment, case: &str, depth: usize) {
    let (repository, mut content) = own(deployment, case);
    let image = content.image(0, 0);
    repository.push_image(&image.manifest.digest.to_string(), &image).await.unwrap();
    let mut current = image.manifest.clone();
    for _ in 0..depth {
        let index = content.index(&[&current]);
        repository.put_manifest(&index.digest.to_string(), &index).await.unwrap().expect(201).unwrap();
        current = index;
    }
    repository.put_manifest("top", &current).await.unwrap().expect(201).unwrap();
    assert_eq!(repository.manifest("top").await.unwrap().expect(200).unwrap().body, current.bytes);
    repository.pull_image(&image.manifest.digest.to_string(), &image).await.unwrap();
    // Deleting the top takes one step, not a walk: what it held is there still.
    repository.delete(&format!("manifests/{}", current.digest)).await.unwrap().expect(202).unwrap();
    repository.pull_image(&image.manifest.digest.to_string(), &image).await.unwrap();
}

async fn wide(deployment: &Deployment, case: &str, children: usize) {
    let (repository, mut content) = own(deployment, case);
    let artifacts: Vec<_> = (0..children).map(|_| content.artifact("application/x", None)).collect();
    repository.push_blob(&artifacts[0].config).await.unwrap();
    for artifact in &artifacts {
        let digest = artifact.manifest.digest.to_string();
        repository.put_manifest(&digest, &artifact.manifest).await.unwrap().expect(201).unwrap();
    }
    let manifests: Vec<_> = artifacts.iter().map(|artifact| &artifact.manifest).collect();
    let index = content.index(&manifests);
    repository.put_manifest("wide", &index).await.unwrap().expect(201).unwrap();
    assert_eq!(repository.manifest("wide").await.unwrap().expect(200).unwrap().body, index.bytes);
    let held = repository.delete(&format!("manifests/{}", manifests[children / 2].digest)).await.unwrap();
    assert_eq!((held.status, held.error_code().as_deref()), (405, Some("DENIED")));
}
