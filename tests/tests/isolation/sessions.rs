//! Upload sessions and links belong to one repository and one person; lessons of other registries' advisories.

use berth_testkit::{Content, in_every_setting};
use reqwest::Method;

in_every_setting! {
    async fn cve_2026_32589_a_session_is_no_good_elsewhere_or_to_others(deployment: &'static Deployment) {
        let mut content = Content::named("cve-2026-32589");
        let layer = content.layer(2000);
        let admin = deployment.client();
        let mine = admin.repository("cve-32589/mine");
        let image = content.image(1, 10);
        admin.repository("cve-32589/other").push_image("v1", &image).await.unwrap().expect(201).unwrap();
        let upload = mine.start_upload().await.unwrap();
        mine.patch(&upload, Some(0), layer.bytes.slice(..1000)).await.unwrap().expect(202).unwrap();
        let user = deployment.new_user("cve-32589").await.unwrap();
        deployment.admin(&["grant", "cve-32589", "maintainer", "--namespace", "cve-32589"], "").await.unwrap();
        // The same person through another repository, and another person through the same one.
        let elsewhere = admin.repository("cve-32589/other");
        let moved = upload.replace("cve-32589/mine", "cve-32589/other");
        let others = user.repository("cve-32589/mine");
        for (repository, path) in [(&elsewhere, &moved), (&others, &upload)] {
            for (method, query) in [
                (Method::GET, String::new()),
                (Method::PATCH, String::new()),
                (Method::PUT, format!("?digest={}", layer.digest)),
                (Method::DELETE, String::new()),
            ] {
                let call = repository.call(method.clone(), &format!("{path}{query}")).await.unwrap();
                let body = if method == Method::GET || method == Method::DELETE { layer.bytes.slice(..0) } else { layer.bytes.slice(1000..) };
                let refused = call.body(body).send().await.unwrap();
                assert_eq!(refused.status, 404, "{method} {path}");
                assert_eq!(refused.error_code().as_deref(), Some("BLOB_UPLOAD_UNKNOWN"), "{method} {path}");
            }
        }
        // Nothing of that touched it.
        mine.finish(&upload, &layer.digest.to_string(), layer.bytes.slice(1000..)).await.unwrap().expect(201).unwrap();
        mine.pull_blob(&layer).await.unwrap();
        assert!(!elsewhere.has_blob(&layer.digest).await.unwrap());
    }

    async fn cve_2026_35172_a_deleted_link_is_not_revived_by_another_repository(deployment: &'static Deployment) {
        let mut content = Content::named("cve-2026-35172");
        let layer = content.layer(1000);
        let (a, b) = (deployment.client().repository("cve-35172/a"), deployment.client().repository("cve-35172/b"));
        for repository in [&a, &b] {
            repository.push_image("v1", &content.image(1, 10)).await.unwrap().expect(201).unwrap();
            repository.push_blob(&layer).await.unwrap().expect(201).unwrap();
        }
        let target = format!("blobs/{}", layer.digest);
        a.delete(&target).await.unwrap().expect(202).unwrap();
        // The other repository reads, asks, and pushes again; the first stays without.
        for _ in 0..3 {
            b.pull_blob(&layer).await.unwrap();
            assert!(b.has_blob(&layer.digest).await.unwrap());
            b.push_blob(&layer).await.unwrap().expect(201).unwrap();
            assert_eq!(a.get(&target).await.unwrap().status, 404);
            assert_eq!(a.head(&target).await.unwrap().status, 404);
        }
    }
}
