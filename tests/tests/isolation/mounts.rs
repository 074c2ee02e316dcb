//! T34 between repositories: mounts and known digests give nothing away.

use berth_testkit::{Content, Reply, in_every_setting};
use reqwest::Method;

/// What a client can tell two answers apart by: status, header names, and the body.
fn shape(reply: &Reply) -> (u16, Vec<String>, String) {
    let mut names: Vec<_> = reply.headers.keys().map(ToString::to_string).collect();
    names.sort_unstable();
    (reply.status, names, String::from_utf8_lossy(&reply.body).into_owned())
}

in_every_setting! {
    async fn t34_cve_2024_39897_a_mount_gives_nothing_away(deployment: &'static Deployment) {
        let mut content = Content::named("t34-mount");
        let (secret, absent) = (content.layer(1000), content.layer(1000));
        let admin = deployment.client();
        let owner = admin.repository("t34-owner/secret");
        owner.push_blob(&secret).await.unwrap().expect(201).unwrap();
        // The namespace has to be there to be granted.
        admin.repository("t34-guest/base").push_image("v1", &content.image(1, 10)).await.unwrap().expect(201).unwrap();
        let guest = deployment.new_user("t34-guest").await.unwrap();
        deployment.admin(&["grant", "t34-guest", "developer", "--namespace", "t34-guest"], "").await.unwrap();

        let mine = guest.repository("t34-guest/app");
        for from in ["&from=t34-owner/secret", "", "&from=t34-owner/nothing", "&from=..%2F..", "&from=t34-guest/app"] {
            let there = mine.call(Method::POST, &format!("blobs/uploads/?mount={}{from}", secret.digest)).await.unwrap();
            let there = there.send().await.unwrap();
            let not = mine.call(Method::POST, &format!("blobs/uploads/?mount={}{from}", absent.digest)).await.unwrap();
            let not = not.send().await.unwrap();
            assert_eq!(there.status, 202, "{from}");
            assert_eq!(shape(&there), shape(&not), "{from}");
        }
        assert!(!mine.has_blob(&secret.digest).await.unwrap(), "nothing was linked");
        assert!(!guest.repository("t34-guest/base").has_blob(&secret.digest).await.unwrap());
        // HEAD and GET by a known digest.
        for target in [format!("blobs/{}", secret.digest), format!("blobs/{}", absent.digest)] {
            let base = guest.repository("t34-guest/base");
            assert_eq!(base.get(&target).await.unwrap().status, 404);
            assert_eq!(base.head(&target).await.unwrap().status, 404);
        }
        // A manifest that names it.
        let mut stolen = content.image(0, 0);
        stolen.layers = vec![secret.clone()];
        let manifest = berth_testkit::Blob::json(
            "application/vnd.oci.image.manifest.v1+json",
            &serde_json::json!({
                "schemaVersion": 2,
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": berth_testkit::descriptor(&stolen.config),
                "layers": [berth_testkit::descriptor(&secret)],
            }),
        );
        let base = guest.repository("t34-guest/base");
        base.push_blob(&stolen.config).await.unwrap().expect(201).unwrap();
        let refused = base.put_manifest("stolen", &manifest).await.unwrap();
        assert_eq!(refused.error_code().as_deref(), Some("MANIFEST_BLOB_UNKNOWN"));
    }

    async fn t34_a_mount_with_the_right_needs_no_bytes(deployment: &'static Deployment) {
        let mut content = Content::named("t34-right");
        let layer = content.layer(1000);
        let admin = deployment.client();
        admin.repository("t34-source/app").push_image("v1", &content.image(1, 10)).await.unwrap().expect(201).unwrap();
        admin.repository("t34-source/app").push_blob(&layer).await.unwrap().expect(201).unwrap();
        for (target, from) in [("t34-target/one", "&from=t34-source/app"), ("t34-target/two", "")] {
            let target = admin.repository(target);
            let call = target.call(Method::POST, &format!("blobs/uploads/?mount={}{from}", layer.digest)).await.unwrap();
            call.send().await.unwrap().expect(201).unwrap();
            target.pull_blob(&layer).await.unwrap();
        }
        // A public repository may be mounted from by anybody who may push.
        admin.repository("t34-reader/base").push_image("v1", &content.image(1, 10)).await.unwrap().expect(201).unwrap();
        let user = deployment.new_user("t34-reader").await.unwrap();
        deployment.admin(&["grant", "t34-reader", "developer", "--namespace", "t34-reader"], "").await.unwrap();
        let mine = user.repository("t34-reader/app");
        let target = format!("blobs/uploads/?mount={}&from=t34-source/app", layer.digest);
        assert_eq!(mine.call(Method::POST, &target).await.unwrap().send().await.unwrap().status, 202);
        deployment.admin(&["set-visibility", "t34-source/app", "public"], "").await.unwrap();
        assert_eq!(mine.call(Method::POST, &target).await.unwrap().send().await.unwrap().status, 201);
    }
}
