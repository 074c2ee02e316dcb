//! T33: repository names that are none, as bytes on the wire: no client library cleans them up.

use berth_testkit::{in_every_setting, raw};

use crate::own;

in_every_setting! {
    async fn t33_names_that_are_none_are_refused_before_anything_is_asked(deployment: &'static Deployment) {
        let long = "a".repeat(256);
        for name in [
            "..", "../..", "a/..", "a/../b", ".", "a/./b", "%2e%2e", "a/%2e%2e/b", "a/%2e%2e%2fb", "%2e%2e%2f%2e%2e",
            "a%2f%2e%2e%2fb", "a//b", "a%2f%2fb", "a%00b", "a/b%0a", "a/b%20c", "A/b", "a/B", "a..b", "a/b_-c", "-a/b",
            "a/b-", "t%D0%B5am/app", "team/%EF%BC%A1pp", "a/%252e%252e", "a/b%25", "a/b%ff", &long,
            &format!("{long}/{long}"), "team/blobs/uploads/app", "a;b/c", "a:b/c", "a@b/c",
        ] {
            for rest in ["manifests/latest", "tags/list", "blobs/uploads/"] {
                let target = format!("/v2/{name}/{rest}");
                let refused = raw::get(deployment.address(), &target).await.unwrap();
                let expected = (400, Some("NAME_INVALID".to_owned()));
                assert_eq!((refused.status, refused.error_code()), expected, "{target}");
            }
        }
    }

    async fn t33_unusual_names_that_are_legal_work(deployment: &'static Deployment) {
        let mut content = own(deployment, "t33-legal").1;
        let long = format!("t33-legal/{}", "a".repeat(245));
        for name in [
            "t33-legal/blobs", "t33-legal/manifests/tags/list", "t33-legal/uploads/blobs", "t33-legal/a__b/c--d/0.1",
            "t33-legal/v2/referrers", &long,
        ] {
            let repository = deployment.client().repository(name);
            let image = content.image(1, 100);
            repository.push_image("v1", &image).await.unwrap();
            repository.pull_image("v1", &image).await.unwrap();
            assert_eq!(repository.tags().await.unwrap(), ["v1"], "{name}");
        }
    }

    async fn t33_paths_that_are_no_route_are_not_found(deployment: &'static Deployment) {
        for target in ["/", "/v1/", "/v2x", "/v2/a", "/v2/a/b", "/v2/_catalog/x", "/v2/../etc/passwd", "//v2/", "/%76%32/x"] {
            let reply = raw::get(deployment.address(), target).await.unwrap();
            assert!([400, 404].contains(&reply.status), "{target}: {}", reply.status);
        }
        for tag in [".x", "-x", "a%20b", &"x".repeat(129), "%2e%2e"] {
            let reply = raw::get(deployment.address(), &format!("/v2/t33/tags/manifests/{tag}")).await.unwrap();
            assert_eq!(reply.status, 400, "{tag}");
        }
    }
}
