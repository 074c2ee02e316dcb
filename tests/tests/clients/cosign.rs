//! cosign: signatures beside images, in both forms, with a key pair and without any service.

use berth_testkit::{Deployment, PASSWORD};

use crate::{
    inputs::{self, input},
    sandbox::Sandbox,
};

/// Nothing is sent to a transparency log, and none is asked for.
const SIGN: &str = "cosign sign --allow-http-registry --use-signing-config=false --tlog-upload=false --yes";
const VERIFY: &str = "cosign verify --allow-http-registry --insecure-ignore-tlog";
/// Signatures under a tag made of the image's digest, as cosign wrote them up to its second version.
const BY_TAG: &str = "--new-bundle-format=false";
/// Signatures that refer to the image, as OCI 1.1 has it.
const BY_REFERENCE: &str = "--new-bundle-format=true";

async fn signed(deployment: &Deployment, form: &str, folder: &str) {
    let cosign = Sandbox::new(deployment);
    let repository = format!("{}/cosign/{folder}", cosign.registry);
    cosign.ok(format!("cosign login {} -u admin -p {PASSWORD}", cosign.registry)).await;
    for key in ["ours", "theirs"] {
        cosign.ok(format!("cosign generate-key-pair --output-key-prefix {key}")).await;
    }
    let mut images = Vec::new();
    for name in [inputs::MULTI_ARCH, inputs::PLAIN, inputs::EMPTY] {
        let folder = input(name).folder.display();
        images.push(cosign.ok(format!("crane push --insecure {folder} {repository}:{name}")).await);
    }
    let [index, image, other] = images.as_slice() else { panic!("{images:?}") };
    let verify =
        async |key: &str, what: &str| cosign.run(format!("{VERIFY} {form} --key {key}.pub {what}")).await;

    // The index and all that is in it; the other image by their key.
    cosign.ok(format!("{SIGN} {form} --recursive --key ours.key -a stage=test {index}")).await;
    cosign.ok(format!("{SIGN} {form} --key theirs.key {image}")).await;
    cosign.ok(format!("{SIGN} {form} --key ours.key {image}")).await;
    let children = cosign.ok(format!("crane manifest --insecure {index}")).await;
    let children: serde_json::Value = serde_json::from_str(&children).unwrap();
    let child = format!("{repository}@{}", children["manifests"][1]["digest"].as_str().unwrap());
    for what in [index, &child, image, &format!("{repository}:{}", inputs::PLAIN)] {
        verify("ours", what).await.done();
    }
    verify("theirs", image).await.done();
    cosign.ok(format!("{VERIFY} {form} --key ours.pub -a stage=test {index}")).await;

    // Refused: to who is not logged in or has a wrong password, by another key, without a signature, with another annotation, and for an artifact that was changed.
    let stranger = Sandbox::new(deployment);
    let check = format!("{VERIFY} {form} --key {} {image}", cosign.path("ours.pub").display());
    let said = stranger.run(&check).await.refused();
    assert!(said.contains("DENIED"), "{said}");
    stranger.ok(format!("cosign login {} -u admin -p wrong", cosign.registry)).await;
    let said = stranger.run(&check).await.refused();
    assert!(said.contains("UNAUTHORIZED"), "{said}");
    verify("theirs", index).await.refused();
    verify("ours", other).await.refused();
    cosign.run(format!("{VERIFY} {form} --key ours.pub -a stage=live {index}")).await.refused();
    let changed = cosign
        .ok(format!("crane mutate --insecure --label changed=yes {image} -t {repository}:changed"))
        .await;
    verify("ours", &changed).await.refused();
    verify("ours", &format!("{repository}:changed")).await.refused();
    if form == BY_TAG {
        // Somebody else's signature under the name of ours.
        let tag =
            |image: &str| format!("{repository}:{}.sig", image.split_once('@').unwrap().1.replace(':', "-"));
        cosign.ok(format!("crane copy --insecure {} {}", tag(image), tag(other))).await;
        let said = verify("ours", other).await.refused();
        assert!(said.contains("no matching signatures"), "{said}");
    } else {
        let own = deployment.client().repository(format!("cosign/{folder}"));
        let digest = image.split_once('@').unwrap().1.parse().unwrap();
        assert_eq!(own.referrers(&digest, "").await.unwrap().len(), 2);
        assert!(own.tags().await.unwrap().iter().all(|tag| !tag.starts_with("sha256-")));
    }

    // A statement about an image, and everything about it in another repository.
    cosign.write("about.json", r#"{"passed":true}"#);
    let attest = "cosign attest --allow-http-registry --use-signing-config=false --tlog-upload=false --yes";
    let about = "--type https://example.com/test/v1";
    cosign.ok(format!("{attest} {form} --key ours.key --predicate about.json {about} {image}")).await;
    let check = "cosign verify-attestation --allow-http-registry --insecure-ignore-tlog";
    let said = cosign.ok(format!("{check} {form} --key ours.pub {about} {image}")).await;
    assert!(said.contains("payload"), "{said}");
    cosign.run(format!("{check} {form} --key theirs.pub {about} {image}")).await.refused();
    let tree = cosign.ok(format!("cosign tree --allow-http-registry {image}")).await;
    assert!(tree.contains("sha256:"), "{tree}");
    let copy = if form == BY_TAG {
        "cosign copy --allow-http-registry"
    } else {
        "oras cp --recursive --from-plain-http --to-plain-http"
    };
    cosign.ok(format!("{copy} {repository}:{} {repository}/copies:v1", inputs::PLAIN)).await;
    verify("ours", &format!("{repository}/copies:v1")).await.done();

    // Taken away again, here and not there.
    cosign.ok(format!("cosign clean --allow-http-registry --force --type all {image}")).await;
    verify("ours", image).await.refused();
    verify("ours", &format!("{repository}/copies:v1")).await.done();
}

wherever_bytes_are! {
    async fn signatures_under_tags(deployment: &'static Deployment) {
        signed(deployment, BY_TAG, "tags").await;
    }

    async fn signatures_that_refer(deployment: &'static Deployment) {
        signed(deployment, BY_REFERENCE, "referrers").await;
    }
}
